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


TENSOR_MODEL = ModelDescription(
    num_layers=1,
    parameter_shapes={"tokens.weight": (12, 4), "blocks.0.up.weight": (8, 4), "blocks.0.up.bias": (8,),
                      "blocks.0.down.weight": (4, 8), "blocks.0.down.bias": (4,), "norm.weight": (4,)},
    block_prefixes=("blocks.0",),
    column_parallel={"up": (8,)},
    row_parallel=("down",),
    token_embedding="tokens",
    last_norm="norm",
)  # fmt: skip
"""On two tp ranks each holds 24 + 16 + 4 + 16 of what is split, and 4 + 4 whole."""
PASSED = 8 * 16 * 4 * 4
"""Bytes of one activation: the samples of `config_of` x its positions x 4 wide x fp32, with one share of the batch."""


def test_tensor_parallelism_gathers_and_sums_four_times_a_block_and_twice_at_the_ends() -> None:
    assert strategies()["tensor"].communication(config_of(), Layout(tp=2), TENSOR_MODEL) == [
        count("all_gather", "tp", 2, 6 * PASSED // 2),
        # three numbers of each token's loss, the gradients of what is held whole, the norm's square
        count("all_reduce", "tp", 2, 3 * 8 * 16 * 4 + 8 * 4 + 4),
        count("reduce_scatter", "tp", 2, 6 * PASSED),
    ]


@pytest.mark.parametrize(("dropout", "num_sums"), [(0.0, 7), (0.1, 8)])
def test_recomputed_blocks_pass_activations_again(dropout: float, num_sums: int) -> None:
    config = config_of(model={"dropout": dropout}, train={"activation_checkpointing": "block"})
    gathered, _, summed = strategies()["tensor"].communication(config, Layout(tp=2), TENSOR_MODEL)
    assert (gathered.payload_bytes, summed.payload_bytes) == (8 * PASSED // 2, num_sums * PASSED)


def test_bf16_halves_what_passes_but_the_embeddings_own() -> None:
    config = config_of(train={"precision": "bf16"})
    gathered, _, summed = strategies()["tensor"].communication(config, Layout(tp=2), TENSOR_MODEL)
    assert (gathered.payload_bytes, summed.payload_bytes) == ((5 * PASSED // 2 + PASSED) // 2, 5 * PASSED // 2 + PASSED)


def test_data_axes_beside_tp_exchange_what_a_tp_rank_holds() -> None:
    config = config_of(train={"grad_clip_norm": None})
    halved = PASSED // 2  # two shares of the batch
    assert strategies()["tensor"].communication(config, Layout(dp=2, tp=2), TENSOR_MODEL) == [
        count("all_gather", "tp", 2, 6 * halved // 2),
        count("all_reduce", "dp", 2, (60 + 8) * 4),
        count("all_reduce", "tp", 2, 3 * 4 * 16 * 4 + 8 * 4),
        count("reduce_scatter", "tp", 2, 6 * halved),
    ]
    assert strategies()["tensor"].communication(config, Layout(fsdp=2, tp=2), TENSOR_MODEL) == [
        count("all_gather", "fsdp", 2, (2 * 40 + 28) // 2 * 4),  # a block of 16 + 4 + 16 + 4, a root of 24 + 4
        count("all_gather", "tp", 2, 6 * halved // 2),
        count("all_reduce", "tp", 2, 3 * 4 * 16 * 4 + 8 // 2 * 4),
        count("reduce_scatter", "fsdp", 2, 68 * 4),
        count("reduce_scatter", "tp", 2, 6 * halved),
    ]


def test_doubles_are_twice_as_many_bytes() -> None:
    config = config_of(train={"precision": "fp64", "grad_clip_norm": None})
    assert strategies()["ddp"].communication(config, Layout(dp=2), MODEL)[0].payload_bytes == 104 * 8
    gathered, summed = strategies()["fsdp"].communication(config, Layout(fsdp=2), MODEL)
    assert (gathered.payload_bytes, summed.payload_bytes) == ((2 * 60 + 44) // 2 * 8, 104 * 8)


def test_an_average_is_spread_over_the_steps_that_it_serves() -> None:
    config = config_of(parallel={"local_steps": 5})
    assert strategies()["local_sgd"].communication(config, Layout(dp=2), MODEL) == [count("all_reduce", "dp", 2, 83)]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (0, [count("all_reduce", "dp", 3, 416)]),
        # 88 elements in matrices and 16 in vectors, each rounded up to a multiple of 6: 90 and 18
        (1, [count("all_gather", "dp", 3, (30 + 6) * 4), count("all_reduce", "dp", 3, 416 + 2 * 4)]),
        (2, [count("all_gather", "dp", 3, (30 + 6) * 4), count("all_reduce", "dp", 3, 416 + 2 * 4)]),
        # a third of 40, 24, 6, 24, 6 and 4 elements, rounded up: 14 + 8 + 2 + 8 + 2 + 2
        (3, [count("all_gather", "dp", 3, 36 * 4), count("all_reduce", "dp", 3, 2 * 8),
             count("reduce_scatter", "dp", 3, 36 * 3 * 4)]),
    ],
)  # fmt: skip
def test_zero_stages_of_deepspeed_exchange_once_for_both_micro_batches(
    stage: int, expected: list[CollectiveCount]
) -> None:
    config = config_of(train={"global_batch": 12, "micro_batch": 2}, parallel={"zero_stage": stage})
    assert strategies()["deepspeed"].communication(config, Layout(dp=3), MODEL) == expected
