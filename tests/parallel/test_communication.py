"""Predicted bytes worked out by hand; the conformance suite compares them with what real ranks issue."""

from __future__ import annotations

import pytest

from tests.conformance.steps import config_of
from worldsize.models.cost import ModelDescription, describe
from worldsize.parallel.compression import powersgd_numel
from worldsize.parallel.fsdp import padded_numel, units_of
from worldsize.parallel.layout import Layout
from worldsize.parallel.registry import strategies
from worldsize.records import CollectiveCount

MODEL = ModelDescription(
    num_layers=2,
    parameter_shapes={"embedding": (10, 4), "blocks.0.w": (6, 4), "blocks.0.b": (6,), "blocks.1.w": (6, 4),
                      "blocks.1.b": (6,), "norm": (4,)},
    block_prefixes=("blocks.0", "blocks.1"),
    column_parallel={},
    row_parallel=(),
)  # fmt: skip
"""104 parameters: two blocks of 30, and 44 at the root."""


def count(kind: str, group: str, group_size: int, payload_bytes: int) -> CollectiveCount:
    return CollectiveCount(kind=kind, group=group, group_size=group_size, payload_bytes=payload_bytes)


@pytest.mark.parametrize("name", ["allreduce", "ddp"])
def test_data_parallelism_sums_every_gradient(name: str) -> None:
    assert strategies()[name].communication(config_of(), Layout(dp=3), MODEL) == [count("all_reduce", "dp", 3, 416)]


@pytest.mark.parametrize(("compression", "payload_bytes"), [("bf16", 208), ("fp16", 208)])
def test_sixteen_bits_are_half(compression: str, payload_bytes: int) -> None:
    config = config_of(parallel={"gradient_compression": compression})
    assert strategies()["ddp"].communication(config, Layout(dp=2), MODEL)[0].payload_bytes == payload_bytes


def test_powersgd_sends_factors_where_they_are_smaller() -> None:
    assert powersgd_numel((100, 50), 2) == (100 + 50) * 2
    assert powersgd_numel((100,), 2) == 100  # a vector's factors would be longer than itself
    assert powersgd_numel((6, 4), 2) == 24  # factors of 20 elements are not less than half of 24
    assert powersgd_numel((100, 50), 16) == 2400
    assert powersgd_numel((100, 50), 17) == 5000  # 2550 is not less than half of 5000
    assert powersgd_numel((64, 3, 3), 1) == 64 + 9


def test_units_are_the_blocks_and_then_the_root() -> None:
    assert units_of(MODEL) == [[(6, 4), (6,)], [(6, 4), (6,)], [(10, 4), (4,)]]
    assert padded_numel([(6, 4), (6,)], 2) == 30
    assert padded_numel([(6, 4), (6,)], 4) == 8 * 4 + 8
    assert padded_numel([(10, 4), (4,)], 4) == 12 * 4 + 4


def test_zero_3_gathers_blocks_twice_and_the_root_once_a_micro_batch() -> None:
    config = config_of(train={"global_batch": 8, "micro_batch": 2})  # two micro batches on each of two ranks
    assert strategies()["fsdp"].communication(config, Layout(fsdp=2), MODEL) == [
        count("all_gather", "fsdp", 2, 2 * (2 * 60 + 44) // 2 * 4),
        count("all_reduce", "fsdp", 2, 6 * 4),
        count("reduce_scatter", "fsdp", 2, 104 * 4),
    ]


def test_zero_2_gathers_once_a_step_and_hybrid_sums_shards_over_dp() -> None:
    config = config_of(train={"global_batch": 8, "micro_batch": 1, "grad_clip_norm": None}, parallel={"zero_stage": 2})
    assert strategies()["fsdp"].communication(config, Layout(dp=2, fsdp=2), MODEL) == [
        count("all_gather", "fsdp", 2, 52 * 4),
        count("all_reduce", "dp", 2, 52 * 4),
        count("reduce_scatter", "fsdp", 2, 104 * 4),
    ]


def test_bf16_halves_what_is_gathered_and_not_what_is_summed() -> None:
    config = config_of(train={"precision": "bf16", "grad_clip_norm": None})
    gathered, summed = strategies()["fsdp"].communication(config, Layout(fsdp=2), MODEL)
    assert (gathered.payload_bytes, summed.payload_bytes) == ((2 * 60 + 44) // 2 * 2, 104 * 4)


def pipelined(rank: int, layout: Layout, **overrides: dict[str, object]) -> list[CollectiveCount]:
    """Return one rank's collectives; 8 samples a rank in 4 micro batches, activations of 2 × 16 × 32 in fp32."""
    config = config_of(**{"train": {"micro_batch": 2}, "parallel": {"strategy": "pipeline"}, **overrides})  # type: ignore[arg-type]
    return strategies()["pipeline"].communication(config, layout, describe(config.model), rank)  # type: ignore[call-arg]


HEAD = 64 * 32 * 4
MESSAGES = 4 * (2 * 16 * 32 * 4)


def test_a_pipeline_sends_activations_on_and_gradients_back_and_sums_a_tied_head() -> None:
    expected = [
        count("all_reduce", "pp", 2, HEAD + 4),
        count("recv", "pp", 2, MESSAGES),
        count("send", "pp", 2, MESSAGES),
    ]
    assert pipelined(0, Layout(pp=2)) == pipelined(1, Layout(pp=2)) == expected


def test_inner_stages_talk_to_both_sides_and_hold_no_head() -> None:
    four = {"num_layers": 4}
    assert pipelined(1, Layout(pp=4), model=four) == [
        count("all_reduce", "pp", 4, 4),
        count("recv", "pp", 4, 2 * MESSAGES),
        count("send", "pp", 4, 2 * MESSAGES),
    ]
    assert pipelined(3, Layout(pp=4), model=four)[:2] == [
        count("all_reduce", "pp", 2, HEAD),
        count("all_reduce", "pp", 4, 4),
    ]
    assert pipelined(3, Layout(pp=4), model={**four, "tied_head": False})[0] == count("all_reduce", "pp", 4, 4)


def test_in_a_v_both_ends_are_one_rank_and_the_loss_is_handed_on() -> None:
    schedule = {"strategy": "pipeline", "pipeline_schedule": "zero_bubble_v"}
    assert pipelined(0, Layout(pp=2), model={"num_layers": 4}, parallel=schedule) == [
        count("all_reduce", "pp", 2, 4),
        count("recv", "pp", 2, 2 * MESSAGES),
        count("send", "pp", 2, 2 * MESSAGES + 4),
    ]


def test_replicas_sum_what_their_stage_holds() -> None:
    block = 2 * 2 * 32 + (96 * 32 + 96) + (32 * 32 + 32) + (128 * 32 + 128) + (32 * 128 + 32)
    embeddings, last_norm = (64 + 16) * 32, 2 * 32
    config = {"train": {"micro_batch": 1, "global_batch": 16}}
    assert pipelined(0, Layout(dp=2, pp=2), **config)[0] == count("all_reduce", "dp", 2, 4 * (embeddings + block))  # type: ignore[arg-type]
    assert pipelined(2, Layout(dp=2, pp=2), **config)[0] == count(  # type: ignore[arg-type]
        "all_reduce", "dp", 2, 4 * (64 * 32 + block + last_norm)
    )
