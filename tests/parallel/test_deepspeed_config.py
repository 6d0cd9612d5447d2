"""The user's own DeepSpeed JSON beside the run's config: what passes, what is filled in, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.steps import config_of
from worldsize.config.schema import Config
from worldsize.parallel import deepspeed_config
from worldsize.parallel.layout import Layout

LAYOUT = Layout(dp=2)


def config_with(tmp_path: Path, tree: Any, **sections: dict[str, Any]) -> Config:
    path = tmp_path / "ds.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    parallel = {"strategy": "deepspeed", "deepspeed_config": str(path), **sections.pop("parallel", {})}
    return config_of(parallel=parallel, **sections)


@pytest.mark.parametrize(
    ("tree", "both"),
    [
        ({"train_batch_size": 64}, ("train_batch_size=64", "says 8 (train.global_batch)")),
        ({"train_micro_batch_size_per_gpu": 3}, ("train_micro_batch_size_per_gpu=3", "says 4 (train.micro_batch)")),
        ({"managed_gradient_accumulation": False}, ("managed_gradient_accumulation=false", "says true")),
        ({"gradient_accumulation_steps": 2}, ("gradient_accumulation_steps=2", "says 1")),
        ({"gradient_clipping": 0.5}, ("gradient_clipping=0.5", "says 1.0 (train.grad_clip_norm=1.0)")),
        ({"bf16": {"enabled": True}}, ("bf16.enabled=true", "says false (train.precision=fp32)")),
        ({"fp16": {"enabled": True}}, ("fp16.enabled=true", "says false (train.precision=fp32)")),
        ({"optimizer": {"type": "Lamb"}}, ('optimizer.type="Lamb"', 'says "AdamW"')),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}}, ("optimizer.params.lr=0.1", "says 0.001")),
        ({"optimizer": {"params": {"betas": [0.9, 0.5]}}}, ("optimizer.params.betas=[0.9, 0.5]", "says [0.9, 0.95]")),
        ({"optimizer": {"params": {"amsgrad": True}}}, ("optimizer.params.amsgrad=true", "AdamW; leave it out")),
        ({"scheduler": {"type": "WarmupLR"}}, ("scheduler.type=WarmupLR", "optimizer.schedule=cosine")),
        ({"zero_optimization": {"stage": 2}}, ("zero_optimization.stage=2", "says 1 (parallel.zero_stage)")),
        ({"prescale_gradients": True}, ("prescale_gradients=true", "says false")),
        ({"amp": {"enabled": True}}, ("amp.enabled=true", "changes the work")),
    ],
)  # fmt: skip
def test_a_contradiction_names_both_values(tmp_path: Path, tree: dict[str, Any], both: tuple[str, str]) -> None:
    config = config_with(tmp_path, tree, parallel={"zero_stage": 1})
    (reason,) = deepspeed_config.contradictions(config, LAYOUT)
    assert all(part in reason for part in (*both, "ds.json"))


def test_fp16_needs_the_norm_and_autocasts_by_itself(tmp_path: Path) -> None:
    tree = {"fp16": {"enabled": True}, "zero_optimization": {"stage": 1, "compute_grad_norm": False}}
    reasons = deepspeed_config.contradictions(config_with(tmp_path, tree, train={"precision": "fp16"}), LAYOUT)
    assert "says false (train.precision=fp16 autocasts fp32 weights)" in reasons[0]
    assert "says true (train.precision=fp16, whose overflows the norm tells)" in reasons[1]
    agreeing = {"fp16": {"enabled": "auto"}, "zero_optimization": {"stage": 1, "compute_grad_norm": True}}
    assert deepspeed_config.contradictions(config_with(tmp_path, agreeing, train={"precision": "fp16"}), LAYOUT) == []


def test_what_agrees_or_is_auto_passes_and_is_filled_in(tmp_path: Path) -> None:
    tree = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": 1,
        "optimizer": {"type": "adamw", "params": {"lr": "auto", "betas": [0.9, 0.95], "eps": 1e-8}},
        "scheduler": {"type": "auto"},
        "amp": {"enabled": False},
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "allgather_bucket_size": "auto"},
    }
    config = config_with(tmp_path, tree)
    assert deepspeed_config.contradictions(config, LAYOUT) == []
    merged = deepspeed_config.merged(config, LAYOUT)
    assert merged["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000}
    assert (merged["train_micro_batch_size_per_gpu"], merged["bf16"]) == (4, {"enabled": False})
    assert not {"optimizer", "scheduler", "amp"} & merged.keys()


@pytest.mark.parametrize(
    ("tree", "said"), [("{", "is not JSON"), ("[1]", "holds no JSON object"), (None, "No such file or directory")]
)
def test_a_file_that_cannot_be_read_is_an_error_in_words(tmp_path: Path, tree: str | None, said: str) -> None:
    config = config_with(tmp_path, tree or "")
    if tree is None:
        (tmp_path / "ds.json").unlink()
    (reason,) = deepspeed_config.contradictions(config, LAYOUT)
    assert said in reason
    assert "ds.json" in reason


def test_the_stage_is_the_runs_then_the_jsons_then_3(tmp_path: Path) -> None:
    assert deepspeed_config.stage_of(config_with(tmp_path, {})) == 3
    assert deepspeed_config.stage_of(config_with(tmp_path, {"zero_optimization": {"stage": 0}})) == 0
    assert deepspeed_config.stage_of(config_with(tmp_path, {}, parallel={"zero_stage": 1})) == 1
