"""The learning-rate schedule by hand, and which parameters decay."""

import math

import pytest

from worldsize.config.schema import ModelConfig, OptimizerConfig
from worldsize.models.build import build
from worldsize.train.optimizer import adamw, learning_rate

MODEL = ModelConfig(num_layers=1, d_model=16, num_heads=2, num_kv_heads=2, d_ff=64, vocab_size=32, context_length=8)


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(config, step, 100) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_cosine_ends_at_the_floor_and_passes_the_middle_half_way() -> None:
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=0, min_lr_fraction=0.1)
    assert learning_rate(config, 0, 101) == 2.0
    assert learning_rate(config, 50, 101) == pytest.approx(2.0 * 0.55)
    assert learning_rate(config, 100, 101) == pytest.approx(0.2)
    assert learning_rate(config, 25, 101) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))


def test_constant_stays() -> None:
    config = OptimizerConfig(learning_rate=3.0, warmup_steps=1, schedule="constant")
    assert [learning_rate(config, step, 10) for step in (0, 1, 9)] == [3.0, 3.0, 3.0]


def test_matrices_decay_and_vectors_do_not() -> None:
    model = build(MODEL, seed=0, device="cpu")
    groups = adamw(model, OptimizerConfig(weight_decay=0.1)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        name: 0.1 if p.ndim >= 2 else 0.0 for name, p in model.named_parameters()
    }
