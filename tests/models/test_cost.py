"""The analytic counts against published sizes, the module itself, and torch's own counters."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.models.model_configs import gpt, llama, models
from worldsize.config.schema import ModelConfig
from worldsize.models import cost
from worldsize.models.build import build
from worldsize.models.decoder import Decoder
from worldsize.train.loss import loss_sum


def on_meta(model: ModelConfig) -> Decoder:
    with torch.device("meta"):
        return Decoder(model)


@pytest.mark.parametrize(
    ("num_layers", "d_model", "num_heads", "expected"),
    [
        (12, 768, 12, 124_439_808),  # gpt2
        (24, 1024, 16, 354_823_168),  # gpt2-medium
        (36, 1280, 20, 774_030_080),  # gpt2-large
        (48, 1600, 25, 1_557_611_200),  # gpt2-xl
    ],
)
def test_gpt2_sizes_are_the_released_ones(num_layers: int, d_model: int, num_heads: int, expected: int) -> None:
    model = gpt(num_layers, d_model, num_heads, vocab_size=50257, context_length=1024)
    assert cost.num_parameters(model) == expected
    assert cost.describe(model).num_parameters == expected


def test_llama_shape_has_llama_2_7b_parameters() -> None:
    model = llama(num_layers=32, d_model=4096, num_heads=32, num_kv_heads=32, d_ff=11008, vocab_size=32000)
    assert cost.num_parameters(model) == 6_738_415_616


@given(models())
@settings(max_examples=100, deadline=None)
def test_parameter_shapes_are_the_modules_own(model: ModelConfig) -> None:
    decoder = on_meta(model)
    own = [(name, tuple(tensor.shape)) for name, tensor in decoder.named_parameters()]
    assert list(cost.parameter_shapes(model).items()) == own
    assert cost.parameter_shapes(model).keys() == decoder.state_dict().keys()


@given(models())
@settings(max_examples=50, deadline=None)
def test_flop_equal_torchs_counter(model: ModelConfig) -> None:
    """On meta tensors, because the counter sees no attention on CPU. It counts all T² scores."""
    decoder = on_meta(model)
    tokens_BT = torch.zeros(3, model.context_length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward:
        logits_BTV = decoder(tokens_BT)
    with FlopCounterMode(display=False) as backward:
        logits_BTV.sum().backward()
    expected = 3 * cost.forward_flop_per_sample(model, causal=False)
    assert forward.get_total_flops() == expected
    num_tokens = 3 * model.context_length
    total = forward.get_total_flops() + backward.get_total_flops()
    assert total == pytest.approx(num_tokens * cost.flop_per_token(model, causal=False), rel=1e-12)


def test_causal_counts_the_scores_on_and_below_the_diagonal() -> None:
    model = gpt(num_layers=3, d_model=32, context_length=5)
    left_out = cost.forward_flop_per_sample(model, causal=False) - cost.forward_flop_per_sample(model, causal=True)
    num_masked = int(torch.ones(5, 5).triu(1).sum())
    assert left_out == 3 * num_masked * 2 * 2 * 32  # blocks × scores × (q·k and p·v) × 2 × width


def test_parts_of_a_classifier_by_hand() -> None:
    """Width 8, 6 positions, 3 classes: a block's matrices are 8 × (24 + 8 + 32 + 32), every token sees all 6."""
    model = gpt(d_model=8, num_heads=2, num_kv_heads=2, d_ff=32, context_length=6, kind="encoder", num_classes=3)
    costs = cost.forward_flop_by_part(model)
    assert costs.before == 6 * 8
    assert costs.block == 2 * 6 * 8 * (24 + 8 + 32 + 32) + 2 * (2 * 6 * 6 * 8)
    assert costs.after == 2 * 8 * 3


def test_gpt2_flop_per_token_by_hand() -> None:
    model = gpt(12, 768, 12, vocab_size=50257, context_length=1024)
    in_matmuls = 12 * 12 * 768**2 + 50257 * 768
    assert cost.flop_per_token(model, causal=False) == 6 * in_matmuls + 12 * 12 * 768 * 1024


def saved_bytes(decoder: Decoder, model: ModelConfig, num_samples: int, *, autocast: bool) -> int:
    """Bytes that autograd really keeps: distinct storages, weights and token ids left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens_BT = torch.randint(model.vocab_size or 0, (num_samples, model.context_length))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits_BTV = decoder(tokens_BT)
        loss = loss_sum(logits_BTV, tokens_BT)
        assert loss.requires_grad
        return sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [gpt, llama])
def test_activation_bytes_are_what_autograd_keeps(shape: Callable[..., ModelConfig], precision: str) -> None:
    model = shape(num_layers=4, d_model=128, d_ff=384, vocab_size=512, context_length=64)
    decoder = build(model, 0, "cpu")
    real = saved_bytes(decoder, model, 8, autocast=precision == "bf16")
    assert cost.activation_bytes(model, 8, precision=precision) == pytest.approx(real, rel=0.05)


def test_description_names_real_linears_and_their_parts() -> None:
    for model in (gpt(), llama()):
        decoder, description = on_meta(model), cost.describe(model)
        for prefix in description.block_prefixes:
            for name, parts in description.column_parallel.items():
                linear = decoder.get_submodule(f"{prefix}.{name}")
                assert isinstance(linear, nn.Linear)
                assert linear.out_features == sum(parts)
            for name in description.row_parallel:
                assert isinstance(decoder.get_submodule(f"{prefix}.{name}"), nn.Linear)
        assert description.parameter_bytes() == sum(4 * p.numel() for p in decoder.parameters())
        assert math.prod(description.parameter_shapes["token_embedding.weight"]) == 61 * 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_ff": None}, "unset"),
        ({"num_heads": 5, "num_kv_heads": 5}, "multiple of num_heads=5"),
        ({"num_kv_heads": 3}, "num_kv_heads=3"),
        ({"d_model": 12, "num_heads": 4, "positions": "rotary"}, "must be even"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost.dims_of(gpt(**change))  # type: ignore[arg-type]


def test_cost_imports_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import worldsize.models.cost"
    subprocess.run([sys.executable, "-c", code], check=True)
