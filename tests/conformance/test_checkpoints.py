"""Every strategy × checkpoints: one taken at step 5 leads to the same step 10, bit for bit in the layout that wrote it,
and within rounding in every other.

Rows come from CASES of test_strategies.py by themselves; a strategy joins the moves between layouts by a line in
LAYOUTS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.resumed import go_on, train_with_checkpoint
from tests.conformance.steps import config_of
from tests.conformance.test_strategies import CASES, WHOLE
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.data.sampler import combine
from worldsize.parallel.layout import layout_for
from worldsize.parallel.registry import strategies

NOT_BIT_FOR_BIT = {
    "ddp, int4 exchange": "what rounding leaves out of an exchange stays in its hook, per bucket, and begins anew",
    "ddp, PowerSGD": "what PowerSGD leaves out of an exchange stays in its hook, per bucket, and begins anew",
    "ddp, PowerSGD, small buckets": "the same",
}
"""Rows that go on, but not with the same bits: why."""

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "dp2": (2, {"strategy": "ddp"}),
    "allreduce2": (2, {"strategy": "allreduce"}),
    "fsdp2": (2, {"strategy": "fsdp"}),
    "zero2": (2, {"strategy": "fsdp", "zero_stage": 2}),
    "fsdp4": (4, {"strategy": "fsdp"}),
    "dp2×fsdp2": (4, {"strategy": "fsdp", "dp": 2}),
    "tp2": (2, {"strategy": "tensor"}),
    "fsdp2×tp2": (4, {"strategy": "tensor", "fsdp": 2}),
    "pp2": (2, {"strategy": "pipeline"}),
    "dp2×pp2": (4, {"strategy": "pipeline", "dp": 2}),
    "single": (1, {"strategy": "single"}),
}
"""Layouts between which a checkpoint moves: world size and section `parallel`."""
ODD = {"d_ff": 129, "vocab_size": 65}
"""Rows that do not divide by 2 or 4, so that shards are uneven, one even empty. Tensor parallelism takes an odd
vocabulary alone, and none whose parts fsdp shards again."""
MOVES = {source: ("single", "dp2", list(LAYOUTS)[(index + 1) % len(LAYOUTS)]) for index, source in enumerate(LAYOUTS)}
"""From every layout to one device, to two replicas, and to the next layout of the list."""


def on_ranks(request: pytest.FixtureRequest, world_size: int, function: Any, *args: Any) -> list[dict[str, Any]]:
    if world_size == 1:
        return [function(0, 1, *args)]
    ranks: Ranks = request.getfixturevalue("two_ranks" if world_size == 2 else "four_ranks")
    return ranks.run(function, *args)


def assert_bit_identical(went_on: list[dict[str, Any]], undisturbed: list[dict[str, Any]]) -> None:
    for ours, theirs in zip(went_on, undisturbed, strict=True):
        assert ours["losses"] == theirs["losses"]
        assert ours["digest"] == theirs["digest"]
        assert ours["scaler"] == theirs["scaler"]
        assert torch.equal(ours["rng"], theirs["rng"])
        assert ours["after"].keys() == theirs["after"].keys()
        for name, weight in theirs["after"].items():
            assert torch.equal(ours["after"][name], weight), name


def with_dropout(config: Config, **train: Any) -> Config:
    tree = config.model_dump()
    tree["model"]["dropout"] = 0.2
    tree["train"].update(train)
    return type(config).model_validate(tree)


VARIANTS = (
    "ddp, accumulated", "ddp, bf16 exchange", "fsdp, ZeRO-2", "deepspeed, rows that do not divide", "deepspeed, bf16",
    "tensor, Llama-shaped", "pipeline, GPipe", "pipeline, 1F1B", "pipeline, interleaved", "pipeline, zero bubble",
)  # fmt: skip
"""Variants of rows that are resumed each time; the others with the whole table."""
ALSO_ON_4 = ("allreduce", "ddp, small buckets", "fsdp", "fsdp, rows that do not divide")
RESUMED = [(name, min(case.world_sizes)) for name, case in CASES.items() if name not in NOT_BIT_FOR_BIT]
RESUMED = [(name, world_size) for name, world_size in RESUMED if world_size <= 4]
RESUMED = [(name, world_size) for name, world_size in RESUMED if WHOLE or "," not in name or name in VARIANTS]
RESUMED += [(name, 4) for name in ALSO_ON_4]


@pytest.mark.parametrize(("name", "world_size"), RESUMED)
def test_the_same_layout_goes_on_bit_for_bit(
    name: str, world_size: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = with_dropout(CASES[name].config())
    undisturbed = on_ranks(request, world_size, train_with_checkpoint, config, tmp_path)
    assert_bit_identical(on_ranks(request, world_size, go_on, config, tmp_path), undisturbed)


@pytest.mark.parametrize("strategy", [name for name in strategies() if name not in ("single",)])
def test_the_loss_scale_goes_on(strategy: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = with_dropout(config_of(parallel={"strategy": strategy}), precision="fp16")
    if reasons := strategies()[strategy].legal(config, layout_for(config.parallel, 2)):
        pytest.skip("; ".join(reasons))
    undisturbed = on_ranks(request, 2, train_with_checkpoint, config, tmp_path)
    assert undisturbed[0]["scaler"]["_growth_tracker"] > 5, (
        "steps since the scale last changed: more than after loading"
    )
    went_on = on_ranks(request, 2, go_on, config, tmp_path)
    assert_bit_identical(went_on, undisturbed)
    if strategy == "local_sgd":
        return  # every rank has a state of its own, and one device could take none of them
    alone = config_of(train={"precision": "fp16"}, parallel={"strategy": "single"})
    assert on_ranks(request, 1, go_on, alone, tmp_path)[0]["scaler"] == undisturbed[0]["scaler"]


def test_one_device_goes_on_bit_for_bit(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = with_dropout(config_of(parallel={"strategy": "single"}))
    undisturbed = on_ranks(request, 1, train_with_checkpoint, config, tmp_path)
    assert_bit_identical(on_ranks(request, 1, go_on, config, tmp_path), undisturbed)


@pytest.mark.parametrize("source", LAYOUTS)
def test_another_layout_goes_on_within_rounding(source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In float64: in float32 Adam magnifies the rounding of gradients that are zero in theory."""

    def config_for(layout: str) -> Config:
        names = " ".join((source, *MOVES[source]))
        model = {} if "×tp" in names else {"vocab_size": 65} if "tp" in names else ODD
        return config_of(model=model, parallel=LAYOUTS[layout][1], train={"precision": "fp64"})

    undisturbed = on_ranks(request, LAYOUTS[source][0], train_with_checkpoint, config_for(source), tmp_path)
    losses = [sum(step) for step in zip(*(one["losses"] for one in undisturbed), strict=True)]
    for target in MOVES[source]:
        went_on = on_ranks(request, LAYOUTS[target][0], go_on, config_for(target), tmp_path)
        sums = [sum(step) for step in zip(*(one["losses"] for one in went_on), strict=True)]
        assert sums == pytest.approx(losses, rel=1e-6), target
        assert combine(one["digest"] for one in went_on) == combine(one["digest"] for one in undisturbed), target
        for name, weight in undisturbed[0]["after"].items():
            difference = float((went_on[0]["after"][name] - weight).abs().max())
            assert difference < 1e-9, f"{target}: {name} by {difference}"


@pytest.mark.parametrize("outer", [{}, {"outer_learning_rate": 0.7, "outer_momentum": 0.9}])
def test_local_steps_go_on_bit_for_bit(outer: dict[str, float], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The checkpoint lies between two averages, where every rank has weights of its own."""
    config = with_dropout(config_of(parallel={"strategy": "local_sgd", "local_steps": 2, **outer}))
    undisturbed = on_ranks(request, 2, train_with_checkpoint, config, tmp_path)
    assert_bit_identical(on_ranks(request, 2, go_on, config, tmp_path), undisturbed)


def test_dropout_goes_on_where_samples_are_shared_out_alike(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Masks are a rank's own: they carry over between layouts with as many data ranks."""
    double = {"model": {"dropout": 0.2}, "train": {"precision": "fp64"}}
    ddp, fsdp = (config_of(**double, parallel={"strategy": name}) for name in ("ddp", "fsdp"))
    undisturbed = on_ranks(request, 2, train_with_checkpoint, ddp, tmp_path)
    went_on = on_ranks(request, 2, go_on, fsdp, tmp_path)
    for ours, theirs in zip(went_on, undisturbed, strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-6)
        assert torch.equal(ours["rng"], theirs["rng"])
    alone = on_ranks(request, 1, go_on, config_of(**double), tmp_path)
    again = on_ranks(request, 1, go_on, config_of(**double), tmp_path)
    assert alone[0]["losses"] == again[0]["losses"], "seeded anew, and always alike"
