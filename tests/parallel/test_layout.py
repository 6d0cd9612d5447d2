"""Layout arithmetic: degrees multiply to the world size, batches divide, and what does not is said with what would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.config.schema import ParallelConfig, TrainConfig
from worldsize.errors import UserError
from worldsize.parallel.layout import Layout, batches_for, layout_for, strategy_name

degree = st.integers(1, 6)


@given(degree, degree, degree, degree)
def test_an_unset_dp_takes_what_the_other_degrees_leave(dp: int, fsdp: int, tp: int, pp: int) -> None:
    layout = layout_for(ParallelConfig(fsdp=fsdp, tp=tp, pp=pp), dp * fsdp * tp * pp)
    assert layout == Layout(dp, fsdp, tp, pp)
    assert layout.world_size == dp * fsdp * tp * pp
    assert layout.num_data_ranks == dp * fsdp


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5))
def test_batches_multiply_back(dp: int, accumulation: int, micro_batch: int) -> None:
    global_batch = dp * accumulation * micro_batch
    batches = batches_for(TrainConfig(global_batch=global_batch, micro_batch=micro_batch), Layout(dp=dp))
    assert batches.accumulation == accumulation
    assert batches.per_device_batch == accumulation * micro_batch
    assert dp * batches.accumulation * batches.micro_batch == global_batch


def test_degrees_that_do_not_multiply_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"dp=3 × fsdp=1 × tp=1 × pp=1 needs 3 devices, but the world size is 4.*--nproc 3"
    ):
        layout_for(ParallelConfig(dp=3), 4)


def test_a_batch_that_does_not_divide_names_the_nearest_that_do() -> None:
    with pytest.raises(UserError, match=r"train\.global_batch=10 does not divide into 4 data ranks.*8 or 12"):
        batches_for(TrainConfig(global_batch=10, micro_batch=1), Layout(dp=4))
    with pytest.raises(UserError, match=r"Nearest that do: 4[.;]"):
        batches_for(TrainConfig(global_batch=3), Layout(dp=4))


def test_auto_is_the_simplest_technique() -> None:
    assert [strategy_name(ParallelConfig(), n) for n in (1, 2, 8)] == ["single", "ddp", "ddp"]
    assert strategy_name(ParallelConfig(strategy="ddp"), 1) == "ddp"


def test_fsdp_takes_what_dp_leaves_and_nothing_under_other_strategies() -> None:
    assert layout_for(ParallelConfig(strategy="fsdp"), 4) == Layout(fsdp=4)
    assert layout_for(ParallelConfig(strategy="fsdp", dp=2), 8) == Layout(dp=2, fsdp=4)
    assert layout_for(ParallelConfig(strategy="fsdp", fsdp=2), 8) == Layout(dp=4, fsdp=2)
    assert layout_for(ParallelConfig(strategy="fsdp", tp=2), 8) == Layout(fsdp=4, tp=2)
    assert layout_for(ParallelConfig(strategy="ddp"), 4) == Layout(dp=4)
    with pytest.raises(
        UserError, match=r"dp=3 × fsdp=1 .*leave parallel\.fsdp unset and let the other degrees divide 4"
    ):
        layout_for(ParallelConfig(strategy="fsdp", dp=3), 4)


def test_a_group_is_named_by_the_axes_along_which_its_ranks_differ() -> None:
    layout = Layout(dp=2, fsdp=2, tp=3)
    assert layout.axes_of([0, 1, 2]) == "tp"
    assert layout.axes_of([1, 4]) == "fsdp"
    assert layout.axes_of([2, 8]) == "dp"
    assert layout.axes_of([0, 3, 6, 9]) == "dp×fsdp"
    assert layout.axes_of(range(12)) == "dp×fsdp×tp"
    assert Layout(dp=2, pp=2).axes_of([0, 2]) == "pp"


def test_a_strategys_own_axis_takes_what_the_others_leave() -> None:
    assert layout_for(ParallelConfig(strategy="tensor"), 4) == Layout(tp=4)
    assert layout_for(ParallelConfig(strategy="tensor", dp=2), 4) == Layout(dp=2, tp=2)
    assert layout_for(ParallelConfig(strategy="tensor", tp=2), 8) == Layout(dp=4, tp=2)
    assert layout_for(ParallelConfig(strategy="pipeline", tp=2), 8) == Layout(tp=2, pp=4)
    with pytest.raises(UserError, match=r"dp=1 × fsdp=1 × tp=3 × pp=1 needs 3 devices.*parallel\.tp unset"):
        layout_for(ParallelConfig(strategy="tensor", tp=3, dp=1), 4)


def test_neighbouring_ranks_differ_along_tp_and_the_far_ones_along_pp() -> None:
    layout = Layout(dp=2, tp=2, pp=2)
    places = [tuple(layout.coordinates(rank).values()) for rank in range(8)]
    assert [layout.coordinates(rank)["tp"] for rank in range(8)] == [0, 1] * 4
    assert [layout.coordinates(rank)["dp"] for rank in range(8)] == [0, 0, 1, 1] * 2
    assert [layout.coordinates(rank)["pp"] for rank in range(8)] == [0] * 4 + [1] * 4
    assert len(set(places)) == 8


@given(degree, degree, degree, degree)
def test_each_share_of_the_batch_is_counted_once(dp: int, fsdp: int, tp: int, pp: int) -> None:
    layout = Layout(dp, fsdp, tp, pp)
    counted = [layout.data_rank(rank) for rank in range(layout.world_size) if layout.counts(rank)]
    assert sorted(counted) == list(range(layout.num_data_ranks))


def test_a_ragged_last_micro_batch_must_be_asked_for() -> None:
    with pytest.raises(UserError, match=r"2 data ranks × micro batches of 4.*allow_ragged_micro_batch=true"):
        batches_for(TrainConfig(global_batch=12, micro_batch=4), Layout(dp=2))
    ragged = TrainConfig(global_batch=12, micro_batch=4, allow_ragged_micro_batch=True)
    assert batches_for(ragged, Layout(dp=2)).accumulation == 2
