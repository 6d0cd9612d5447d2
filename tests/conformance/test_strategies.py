"""Every strategy × every property: each row of CASES trains on 2 and on 4 real ranks and must equal one device.

Uneven padding everywhere: each sample has its own length, so that ranks and micro batches hold unequal tokens.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.conformance.steps import config_of, train
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.data.sampler import combine
from worldsize.parallel.layout import layout_for

LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "num_kv_heads": 2, "bias": False,
         "tied_head": False, "d_ff": 96}  # fmt: skip
TENSOR = {"strategy": "tensor"}
MICRO: dict[str, dict[str, Any]] = {"train": {"micro_batch": 2}}
FP16: dict[str, dict[str, Any]] = {"train": {"precision": "fp16"}}
NEAR_IN_FP16 = (1e-4, 1e-3, 0.1)
FOUR: dict[str, dict[str, Any]] = {"model": {"num_layers": 4}}


def pipeline(schedule: str) -> dict[str, Any]:
    return {"strategy": "pipeline", "pipeline_schedule": schedule}


@dataclass(frozen=True)
class Case:
    """One row: a strategy and its settings, and how near to one device it must come."""

    parallel: dict[str, Any]
    rest: dict[str, dict[str, Any]] = field(default_factory=dict)
    world_sizes: tuple[int, ...] = (2, 4)
    loss_tolerance: float = 1e-6
    norm_tolerance: float = 1e-6
    drift_tolerance: float | None = None
    """Of a lossy row: the difference of the weights at step 10 over the way that they have come, both as norms. Adam
    makes much of rounding where a gradient is near zero, so single weights say nothing there."""
    takes_double: bool = True
    """False where the technique itself keeps weights or gradients in fp32."""

    @property
    def double(self) -> bool:
        """Whether the row is compared in float64 too (test_double.py): wherever nothing is rounded to less."""
        return self.drift_tolerance is None and self.takes_double

    def config(self, strategy: str | None = None) -> Config:
        """Return the config; `strategy` replaces the row's own and drops its settings."""
        parallel = {"strategy": strategy} if strategy else self.parallel
        return config_of(parallel=parallel, **self.rest)


def DeepSpeedCase(stage: int, rest: dict[str, dict[str, Any]] | None = None, **parallel: Any) -> Case:  # noqa: N802
    settings = {"strategy": "deepspeed", "zero_stage": stage, **parallel}
    if rest and rest.get("train", {}).get("precision") == "bf16":
        return Case(settings, rest, (2,), 5e-4, 5e-3, 0.1)
    if rest == FP16:
        return Case(settings, rest, (2,), *NEAR_IN_FP16)
    return Case(settings, rest or {}, (2, 4) if not rest else (2,), takes_double=False)


CASES = {
    "allreduce": Case({"strategy": "allreduce"}),
    "allreduce, accumulated": Case({"strategy": "allreduce"}, {"train": {"micro_batch": 1}}),
    "ddp": Case({"strategy": "ddp"}),
    "ddp, accumulated": Case({"strategy": "ddp"}, {"train": {"micro_batch": 1}}),
    "ddp, Llama-shaped": Case({"strategy": "ddp"}, {"model": LLAMA}),
    "ddp, unclipped": Case({"strategy": "ddp"}, {"train": {"grad_clip_norm": None}}),
    "ddp, small buckets": Case({"strategy": "ddp", "bucket_mib": 0.01}),
    "ddp, blocks recomputed": Case({"strategy": "ddp"}, {"train": {"activation_checkpointing": "block"}}),
    "ddp, attention recomputed": Case({"strategy": "ddp"}, {"train": {"activation_checkpointing": "attention"}}, (2,)),
    "ddp, bf16 exchange": Case({"strategy": "ddp", "gradient_compression": "bf16"}, {}, (2, 4), 1e-4, 2e-3, 0.02),
    "ddp, fp16 exchange": Case({"strategy": "ddp", "gradient_compression": "fp16"}, {}, (2, 4), 1e-5, 3e-4, 0.01),
    "ddp, int4 exchange": Case({"strategy": "ddp", "gradient_compression": "int4", "bucket_mib": 0.05}, {}, (2, 4),
                               2e-3, 0.1, 0.3),
    "ddp, PowerSGD": Case({"strategy": "ddp", "gradient_compression": "powersgd", "powersgd_rank": 4}, {}, (2, 4),
                          5e-3, 0.4, 0.5),
    "ddp, PowerSGD, small buckets": Case({"strategy": "ddp", "gradient_compression": "powersgd", "bucket_mib": 0.01},
                                         {}, (2,), 5e-3, 0.4, 0.5),
    "fsdp": Case({"strategy": "fsdp"}),
    "fsdp, accumulated": Case({"strategy": "fsdp"}, {"train": {"micro_batch": 1}}),
    "fsdp, Llama-shaped": Case({"strategy": "fsdp"}, {"model": LLAMA}),
    "fsdp, rows that do not divide": Case({"strategy": "fsdp"}, {"model": {"d_ff": 129, "vocab_size": 65}}),
    "fsdp, unclipped": Case({"strategy": "fsdp"}, {"train": {"grad_clip_norm": None}}),
    "fsdp, blocks recomputed": Case({"strategy": "fsdp"}, {"train": {"activation_checkpointing": "block"}}),
    "fsdp, attention recomputed": Case({"strategy": "fsdp"}, {"train": {"activation_checkpointing": "attention"}},
                                       (2,)),
    "fsdp, ZeRO-2": Case({"strategy": "fsdp", "zero_stage": 2}),
    "fsdp, ZeRO-2, accumulated": Case({"strategy": "fsdp", "zero_stage": 2}, {"train": {"micro_batch": 1}}),
    "fsdp, two blocks ahead": Case({"strategy": "fsdp", "prefetch_blocks": 2}, FOUR, (2,)),
    "fsdp, ZeRO-2, two blocks ahead": Case({"strategy": "fsdp", "zero_stage": 2, "prefetch_blocks": 2},
                                           {"train": {"micro_batch": 1}} | FOUR, (2,)),
    "fsdp, bf16": Case({"strategy": "fsdp"}, {"train": {"precision": "bf16"}}, (2, 4), 5e-4, 5e-3, 0.1),
    "fsdp, fp16": Case({"strategy": "fsdp"}, FP16, (2,), *NEAR_IN_FP16),
    "deepspeed": DeepSpeedCase(3),
    "deepspeed, accumulated": DeepSpeedCase(3, {"train": {"micro_batch": 1}}),
    "deepspeed, accumulated, bf16": DeepSpeedCase(3, {"train": {"precision": "bf16", "micro_batch": 1}}),
    "deepspeed, rows that do not divide": DeepSpeedCase(3, {"model": {"d_ff": 129, "vocab_size": 65}}),
    "deepspeed, nothing persists": DeepSpeedCase(3, deepspeed_config="tests/conformance/nothing_persists.json"),
    "deepspeed, blocks recomputed": DeepSpeedCase(3, {"train": {"activation_checkpointing": "block"}}),
    "deepspeed, bf16": DeepSpeedCase(3, {"train": {"precision": "bf16"}}),
    "deepspeed, fp16": DeepSpeedCase(3, FP16),
    "deepspeed, ZeRO-1, fp16": DeepSpeedCase(1, FP16),
    "deepspeed, ZeRO-0": DeepSpeedCase(0),
    "deepspeed, ZeRO-1": DeepSpeedCase(1),
    "deepspeed, ZeRO-1, accumulated, Llama-shaped": DeepSpeedCase(1, {"train": {"micro_batch": 1}, "model": LLAMA}),
    "deepspeed, ZeRO-2": DeepSpeedCase(2),
    "deepspeed, ZeRO-2, accumulated": DeepSpeedCase(2, {"train": {"micro_batch": 1}}),
    "deepspeed, ZeRO-2, unclipped": DeepSpeedCase(2, {"train": {"grad_clip_norm": None}}),
    "dp×fsdp": Case({"strategy": "fsdp", "dp": 2}, {}, (4,)),
    "dp×fsdp, accumulated": Case({"strategy": "fsdp", "dp": 2}, {"train": {"micro_batch": 1}}, (4,)),
    "dp×fsdp, ZeRO-2": Case({"strategy": "fsdp", "dp": 2, "zero_stage": 2}, {}, (4,)),
    "tensor": Case(TENSOR),
    "tensor, accumulated, ragged": Case(TENSOR, {"train": {"micro_batch": 3, "allow_ragged_micro_batch": True}}),
    "tensor, Llama-shaped": Case(TENSOR, {"model": LLAMA}, (2,)),
    "tensor, Llama-shaped, more heads": Case(TENSOR, {"model": LLAMA | {"num_heads": 8, "num_kv_heads": 4}}, (4,)),
    "tensor, unclipped": Case(TENSOR, {"train": {"grad_clip_norm": None}}),
    "tensor, blocks recomputed": Case(TENSOR, {"train": {"activation_checkpointing": "block"}}),
    "tensor, attention recomputed": Case(TENSOR, {"train": {"activation_checkpointing": "attention"}}),
    "tensor, bf16": Case(TENSOR, {"train": {"precision": "bf16"}}, (2, 4), 5e-4, 5e-3, 0.1),
    "tensor, fp16": Case(TENSOR, FP16, (2,), *NEAR_IN_FP16),
    "dp×tp": Case(TENSOR | {"tp": 2}, {}, (4,)),
    "dp×tp, accumulated, small buckets": Case(TENSOR | {"tp": 2, "bucket_mib": 0.01}, {"train": {"micro_batch": 1}},
                                              (4,)),
    "dp×tp, Llama-shaped": Case(TENSOR | {"tp": 2}, {"model": LLAMA}, (4,)),
    "fsdp×tp": Case(TENSOR | {"tp": 2, "fsdp": 2}, {}, (4,)),
    "fsdp×tp, accumulated": Case(TENSOR | {"tp": 2, "fsdp": 2}, {"train": {"micro_batch": 1}}, (4,)),
    "fsdp×tp, Llama-shaped": Case(TENSOR | {"tp": 2, "fsdp": 2}, {"model": LLAMA}, (4,)),
    "fsdp×tp, ZeRO-2": Case(TENSOR | {"tp": 2, "fsdp": 2, "zero_stage": 2}, {}, (4,)),
    "fsdp×tp, blocks recomputed": Case(TENSOR | {"tp": 2, "fsdp": 2}, {"train": {"activation_checkpointing": "block"}},
                                       (4,)),
    "fsdp×tp, bf16": Case(TENSOR | {"tp": 2, "fsdp": 2}, {"train": {"precision": "bf16"}}, (4,), 5e-4, 5e-3, 0.1),
    "fsdp×tp, fp16": Case(TENSOR | {"tp": 2, "fsdp": 2}, FP16, (4,), *NEAR_IN_FP16),
    "pipeline, GPipe": Case(pipeline("gpipe"), MICRO, (2,)),
    "pipeline, GPipe, 4 stages": Case(pipeline("gpipe"), MICRO | FOUR, (4,)),
    "pipeline, 1F1B": Case(pipeline("1f1b"), MICRO, (2,)),
    "pipeline, 1F1B, 4 uneven stages": Case(pipeline("1f1b"), MICRO | {"model": {"num_layers": 5}}, (4,)),
    "pipeline, 1F1B, untied": Case(pipeline("1f1b"), MICRO | {"model": {"tied_head": False}}, (2,)),
    "pipeline, 1F1B, Llama-shaped": Case(pipeline("1f1b"), MICRO | {"model": LLAMA}, (2,)),
    "pipeline, 1F1B, ragged": Case(pipeline("1f1b"), {"train": {"micro_batch": 3, "allow_ragged_micro_batch": True}},
                                   (2,)),
    "pipeline, 1F1B, unclipped": Case(pipeline("1f1b"), {"train": {"micro_batch": 2, "grad_clip_norm": None}}, (2,)),
    "pipeline, 1F1B, blocks recomputed": Case(
        pipeline("1f1b"), {"train": {"micro_batch": 2, "activation_checkpointing": "block"}}, (2,)),
    "pipeline, 1F1B, bf16": Case(pipeline("1f1b"), {"train": {"micro_batch": 2, "precision": "bf16"}}, (2,), 5e-4,
                                 5e-3, 0.1),
    "pipeline, 1F1B, fp16": Case(pipeline("1f1b"), {"train": {"micro_batch": 2, "precision": "fp16"}}, (2,),
                                 *NEAR_IN_FP16),
    "pipeline, interleaved": Case(pipeline("interleaved"), MICRO | FOUR, (2,)),
    "pipeline, interleaved, 8 stages": Case(pipeline("interleaved"), MICRO | {"model": {"num_layers": 8}}, (4,)),
    "pipeline, zero bubble": Case(pipeline("zero_bubble"), MICRO, (2,)),
    "pipeline, zero bubble, 2 stages a rank": Case(pipeline("zero_bubble") | {"stages_per_rank": 2}, MICRO | FOUR,
                                                   (2,)),
    "pipeline, zero bubble, blocks recomputed": Case(
        pipeline("zero_bubble"), {"train": {"micro_batch": 2, "activation_checkpointing": "block"}}, (2,)),
    "pipeline, zero bubble V": Case(pipeline("zero_bubble_v"), MICRO | FOUR, (2,)),
    "pipeline, zero bubble V, 8 stages": Case(pipeline("zero_bubble_v"), MICRO | {"model": {"num_layers": 8}}, (4,)),
    "model parallel": Case({"strategy": "model_parallel"}, MICRO, (2,)),
    "model parallel, 4 stages": Case({"strategy": "model_parallel"}, MICRO | FOUR, (4,)),
    "dp×pp": Case(pipeline("1f1b") | {"dp": 2}, {"train": {"micro_batch": 1}}, (4,)),
    "dp×pp, zero bubble V": Case(pipeline("zero_bubble_v") | {"dp": 2}, {"train": {"micro_batch": 1}} | FOUR, (4,)),
    "dp×pp, model parallel": Case({"strategy": "model_parallel", "dp": 2}, {"train": {"micro_batch": 1}}, (4,)),
    "tp×pp": Case(pipeline("1f1b") | {"tp": 2}, MICRO, (4,)),
    "tp×pp, GPipe, Llama-shaped": Case(pipeline("gpipe") | {"tp": 2}, MICRO | {"model": LLAMA}, (4,)),
    "tp×pp, interleaved, unclipped": Case(
        pipeline("interleaved") | {"tp": 2}, {"train": {"micro_batch": 2, "grad_clip_norm": None}} | FOUR, (4,)),
    "tp×pp, blocks recomputed": Case(
        pipeline("1f1b") | {"tp": 2}, {"train": {"micro_batch": 2, "activation_checkpointing": "block"}}, (4,)),
    "tp×pp, fp16": Case(pipeline("1f1b") | {"tp": 2}, {"train": {"micro_batch": 2, "precision": "fp16"}}, (4,),
                        *NEAR_IN_FP16),
    "dp×tp×pp": Case(pipeline("1f1b") | {"dp": 2, "tp": 2}, {"train": {"micro_batch": 1}}, (8,)),
}  # fmt: skip
ALL_PAIRS = [(name, world_size) for name, case in CASES.items() for world_size in case.world_sizes]
WHOLE = "WORLDSIZE_CONFORMANCE" in os.environ
"""Whether the whole table is asked for, as docs/generate_conformance.py does. Else variants of a row, whose names have
a comma, run on their smallest world alone, which keeps the suite short."""
PAIRS = [
    (name, world_size) for name, world_size in ALL_PAIRS
    if WHOLE or "," not in name or world_size == min(CASES[name].world_sizes)
]  # fmt: skip


def alone(name: str) -> dict[str, Any]:
    """Train the row on one device."""
    return trained_alone(CASES[name].config("single").model_dump_json())


@functools.cache
def trained_alone(config: str) -> dict[str, Any]:
    """Train once for all rows that differ only in how they spread."""
    return train(0, 1, Config.model_validate_json(config))


Trained = tuple[Case, dict[str, Any], list[dict[str, Any]]]


RANKS = {2: "two_ranks", 4: "four_ranks", 8: "eight_ranks"}
SLOW = [pytest.param(pair, marks=pytest.mark.slow) if pair[1] == 8 else pair for pair in PAIRS]


@pytest.fixture(scope="module", params=SLOW, ids=[f"{name} on {world_size}" for name, world_size in PAIRS])
def trained(request: pytest.FixtureRequest) -> Trained:
    """Return the row, what one device made of it, and what each rank made of it. Trained once for all properties."""
    name, world_size = request.param
    ranks: Ranks = request.getfixturevalue(RANKS[world_size])
    return CASES[name], alone(name), ranks.run(functools.partial(train, observe=True), CASES[name].config())


def test_weights_at_step_0_are_one_devices_bit_for_bit(trained: Trained) -> None:
    _, single, ranks = trained
    for one in ranks:
        assert one["before"].keys() == single["before"].keys()
        for name, weight in single["before"].items():
            assert torch.equal(one["before"][name], weight), name


def test_losses_are_one_devices(trained: Trained) -> None:
    case, single, ranks = trained
    sums = [sum(losses) for losses in zip(*(one["losses"] for one in ranks), strict=True)]
    assert sums == pytest.approx(single["losses"], rel=case.loss_tolerance)


def test_gradient_norms_are_one_devices_on_every_rank(trained: Trained) -> None:
    case, single, ranks = trained
    for one in ranks:
        if case.config().train.grad_clip_norm is None:
            assert one["norms"] == single["norms"] == [None] * len(single["norms"])
        else:
            assert one["norms"] == pytest.approx(single["norms"], rel=case.norm_tolerance)


def test_every_gradient_at_step_1_is_one_devices(trained: Trained) -> None:
    case, single, ranks = trained
    found = {name: gradient for one in ranks for name, gradient in one["gradients"].items()}
    assert found.keys() == single["gradients"].keys()
    for name, gradient in single["gradients"].items():
        # No whole tensor's gradient is zero in theory: a key's bias, whose is, lies in one tensor with query and value.
        assert float(gradient.norm()) > 0
        relative = float((found[name] - gradient).norm() / gradient.norm())
        assert relative <= (case.drift_tolerance or 1e-5), name


def test_weights_at_step_10_are_one_devices_and_replicas_agree(trained: Trained) -> None:
    case, single, ranks = trained
    after = ranks[0]["after"]
    assert len({one["checksum"] for one in ranks}) == 1
    if case.drift_tolerance is not None:
        assert 0 < distance(after, single["after"]) / distance(single["before"], single["after"]) < case.drift_tolerance
        return
    for name, weight in single["after"].items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-5, msg=lambda m, n=name: n + m)


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([(ours[name] - theirs[name]).flatten() for name in theirs]).norm())


def test_evaluation_is_one_devices(trained: Trained) -> None:
    case, single, ranks = trained
    counted = [one["evaluated"] for one in ranks if one["evaluated"] is not None]
    assert counted
    for evaluated in counted:
        assert evaluated == pytest.approx(single["evaluated"], rel=max(1e-4, 10 * case.loss_tolerance))


def test_the_ranks_samples_are_one_devices(trained: Trained) -> None:
    _, single, ranks = trained
    assert combine(one["digest"] for one in ranks) == combine([single["digest"]])


def test_predicted_collectives_are_those_observed(trained: Trained) -> None:
    _, _, ranks = trained
    for one in ranks:
        assert one["observed"] == one["predicted"]
        assert one["predicted"]


def test_books_close_and_communication_is_exposed_only_among_ranks(trained: Trained) -> None:
    _, single, ranks = trained
    assert all(step.phases_s["exposed_communication_s"] == 0.0 for step in single["times"])
    for one in ranks:
        assert any(step.phases_s["exposed_communication_s"] > 0.0 for step in one["times"])
        for step in one["times"]:
            assert sum(step.phases_s.values()) == pytest.approx(step.wall_s, rel=1e-9)
            assert min(step.phases_s.values()) >= -1e-9
            assert step.phases_s["compute_s"] > 0


def test_state_has_the_same_names_as_one_devices(trained: Trained) -> None:
    case, single, ranks = trained
    if layout_for(case.config().parallel, len(ranks)).pp > 1:  # each stage has its own, all stages together have all
        assert set().union(*(one["state_names"] for one in ranks)) == single["state_names"]
    else:
        assert all(one["state_names"] == single["state_names"] for one in ranks)


def test_sharded_ranks_hold_their_part_of_weights_and_moments(trained: Trained) -> None:
    case, single, ranks = trained
    layout = layout_for(case.config().parallel, len(ranks))
    if case.parallel["strategy"] == "deepspeed":
        return  # test_deepspeed.py: what is held depends on the stage
    of_a_tp_rank = sum(
        weight.numel() / (layout.tp if is_split_by_tp(name) else 1) for name, weight in single["before"].items()
    )
    share = of_a_tp_rank / sum(weight.numel() for weight in single["before"].values()) / layout.fsdp
    if layout.pp > 1:
        a_replica = single["held_bytes"] * share + bytes_of_a_second_head(case, single) / layout.tp
        assert sum(one["held_bytes"] for one in ranks) == a_replica * layout.tp * layout.dp
        assert all(one["held_bytes"] < a_replica for one in ranks)
        return
    for one in ranks:
        if layout.fsdp == 1:
            assert one["held_bytes"] == single["held_bytes"] * share
        else:  # rows that do not divide: the last rank holds less
            assert one["held_bytes"] == pytest.approx(single["held_bytes"] * share, rel=0.05)


def bytes_of_a_second_head(case: Case, single: dict[str, Any]) -> int:
    """Return what a tied head's second copy takes with its two moments; in a V both ends are on one rank."""
    config = case.config()
    if not config.model.tied_head or config.parallel.pipeline_schedule == "zero_bubble_v":
        return 0
    return 3 * 4 * int(single["before"]["token_embedding.weight"].numel())


def is_split_by_tp(name: str) -> bool:
    """All matrices but the positions', and the biases of what splits by output row."""
    return name.endswith(("qkv.weight", "qkv.bias", "up.weight", "up.bias", "out.weight", "down.weight")) or name in (
        "token_embedding.weight",
        "head.weight",
    )


@pytest.mark.parametrize("name", [
        "allreduce", "ddp", "ddp, blocks recomputed", "ddp, attention recomputed", "fsdp", "fsdp, blocks recomputed",
        "tensor", "tensor, blocks recomputed", "tensor, attention recomputed", "pipeline, 1F1B",
        "pipeline, zero bubble", "model parallel",
    ])  # fmt: skip
def test_dropout_is_reproducible_from_the_seed(name: str, two_ranks: Ranks) -> None:
    parallel, rest = CASES[name].parallel, CASES[name].rest
    config = config_of(parallel=parallel, model={"dropout": 0.2}, train={"steps": 3, **rest.get("train", {})})
    first, again = (two_ranks.run(train, config) for _ in range(2))
    assert [one["losses"] for one in first] == [one["losses"] for one in again]
    assert first[0]["checksum"] == again[0]["checksum"] == first[1]["checksum"]
    without = two_ranks.run(train, config_of(parallel=parallel, train={"steps": 3}))
    assert [one["losses"] for one in first] != [one["losses"] for one in without]
