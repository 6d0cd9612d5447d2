"""From rows to a run's numbers, each worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.measure import summary
from worldsize.measure.statistics import measured
from worldsize.records import PHASES, ExposedCommunication, StepRow


def row(
    step: int,
    wall_s: float,
    *,
    exposed_s: float = 0.0,
    warmup: bool = False,
    loss_sum: float = 1.0,
    num_tokens: int = 1,
) -> StepRow:
    phases = dict.fromkeys(PHASES, 0.0) | {"compute_s": wall_s - exposed_s, "exposed_communication_s": exposed_s}
    return StepRow(
        step=step, warmup=warmup, wall_s=wall_s, phases_s=phases, num_samples=1, num_tokens=num_tokens,
        loss_sum=loss_sum, learning_rate=1e-3,
    )  # fmt: skip


def test_the_slowest_rank_makes_the_step_and_warm_up_is_left_out() -> None:
    rows = {
        0: [row(0, 9.0, warmup=True), row(1, 1.0), row(2, 4.0)],
        1: [row(0, 9.5, warmup=True), row(1, 2.0), row(2, 3.0)],
    }
    assert summary.step_times_s(rows) == [2.0, 4.0]


def test_a_loss_is_the_sum_over_ranks_by_the_global_count_of_tokens() -> None:
    rows = {0: [row(0, 1, loss_sum=30.0, num_tokens=10)], 1: [row(0, 1, loss_sum=2.0, num_tokens=2)]}
    assert summary.losses(rows) == [32.0 / 12]  # the mean of the ranks' means would be 2.0


def test_phases_are_the_mean_over_ranks_and_the_slowest_ranks_excess_is_other() -> None:
    rows = {0: [row(i, 2.0, exposed_s=1.0) for i in range(4)], 1: [row(i, 2.2) for i in range(4)]}
    phases = summary.phases_s(rows)
    assert phases["exposed_communication_s"] == pytest.approx(0.5)
    assert phases["compute_s"] == pytest.approx((1.0 + 2.2) / 2)
    assert phases["other_s"] == pytest.approx(2.2 - 2.1)


@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=30),
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=30),
)
def test_the_books_close_whatever_the_steps(first: list, second: list) -> None:
    n = min(len(first), len(second))
    rows = {
        rank: [row(i, wall_s, exposed_s=share * wall_s) for i, (wall_s, share) in enumerate(steps[:n])]
        for rank, steps in enumerate((first, second))
    }
    assert sum(summary.phases_s(rows).values()) == pytest.approx(measured(summary.step_times_s(rows)).median, rel=1e-9)
    for steps in rows.values():
        assert sum(summary.rank_phases_s(steps).values()) == pytest.approx(
            measured([r.wall_s for r in steps]).median, rel=1e-9
        )


def exposed(
    ablation_s: float, trace_s: float, contention_s: float = 0.0, copies_s: float = 0.0, traced_step_s: float = 0.1
) -> ExposedCommunication:
    names = {"clock_s": ablation_s, "ablation_s": ablation_s, "trace_s": trace_s, "traced_step_s": traced_step_s}
    return ExposedCommunication(
        **{name: measured([value]) for name, value in names.items()},
        contention_s=measured([contention_s]),
        copies_s=measured([copies_s]),
    )


def test_two_ways_within_ten_percent_agree() -> None:
    assert summary.disagreement(exposed(0.0100, 0.0092), 0.1) is None
    assert summary.disagreement(exposed(0.0104, 0.0100), 0.1) is None


def test_what_the_trace_misses_is_explained_by_contention_and_copies_or_said_to_be_unexplained() -> None:
    explained = summary.disagreement(exposed(0.0100, 0.0060, contention_s=0.003, copies_s=0.001), 0.1)
    assert explained is not None
    assert "differ by 4.00 ms" in explained
    assert "for 3.00 ms" in explained
    assert "unexplained" not in explained
    assert "4.00 ms remain unexplained" in (summary.disagreement(exposed(0.0100, 0.0060), 0.1) or "")


def test_what_the_trace_has_too_much_is_explained_by_the_profiler_or_said_to_be_unexplained() -> None:
    explained = summary.disagreement(exposed(0.0060, 0.0100, traced_step_s=0.104), 0.1)
    assert explained is not None
    assert "profiling made the traced steps 4.00 ms longer" in explained
    assert "unexplained" not in explained
    assert "4.00 ms remain unexplained" in (summary.disagreement(exposed(0.0060, 0.0100), 0.1) or "")


def test_exposed_communication_takes_ranks_apart_then_averages() -> None:
    rows = {0: [row(0, 2.0, exposed_s=1.0)], 1: [row(0, 2.0, exposed_s=0.5)]}
    found = summary.exposed_communication(
        rows,
        contention_s=[[0.0], [0.0]],
        with_exchange_s=[[2.0, 2.0], [2.0, 2.0]],
        without_exchange_s=[[1.0, 1.1], [1.5, 1.5]],
        traced_s=[[0.9], [0.5]],
        copies_s=[[0.0], [0.0]],
        traced_step_s=[[2.0], [2.0]],
    )
    assert found.clock_s.median == pytest.approx(0.75)
    assert found.ablation_s is not None
    assert found.ablation_s.samples == pytest.approx([0.75, 0.70])
    assert found.trace_s is not None
    assert found.trace_s.median == pytest.approx(0.7)


def test_measuring_costs_the_slowest_ranks_difference_round_by_round() -> None:
    cost = summary.measuring_cost([[1.02, 1.00], [1.00, 1.03]], [[1.00, 1.00], [1.01, 1.00]], 1.0, 5e-6)
    assert cost.per_step_s.samples == pytest.approx([0.01, 0.03])
    assert cost.share_of_step == pytest.approx(0.02)


def test_steps_of_two_kinds_are_taken_by_whole_periods() -> None:
    """Two short steps and a long one, averaged: no median of single steps would show the long one."""
    short, long = row(1, 1.0), row(3, 4.0, exposed_s=3.0)
    steps = [row(0, 9.0, warmup=True), short, short, long, short, short, long, short]
    paced = summary.over_periods(steps, 3)
    assert [each.wall_s for each in paced] == [2.0, 2.0]  # the last step fills no period
    assert [each.phases_s["exposed_communication_s"] for each in paced] == [1.0, 1.0]
    assert summary.over_periods(steps, 1) == steps
