"""Schedules on paper against goldens written out by hand, and the replay against formulas."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsize.parallel.schedule import (
    Action,
    Orders,
    gpipe,
    ideal_share,
    needs,
    one_at_a_time,
    one_forward_one_backward,
    simulate,
)

UNIT = {(kind, stage): 1.0 for kind in ("F", "B") for stage in range(8)}

GPIPE_6_2 = [
    "F0 F1 F2 F3 F4 F5 .  .  B0 B1 B2 B3 B4 B5",
    ".  F0 F1 F2 F3 F4 F5 B0 B1 B2 B3 B4 B5 . ",
]
GPIPE_3_3 = [
    "F0 F1 F2 .  .  .  .  B0 B1 B2",
    ".  F0 F1 F2 .  .  B0 B1 B2 . ",
    ".  .  F0 F1 F2 B0 B1 B2 .  . ",
]
ONE_FORWARD_ONE_BACKWARD_4_3 = [
    "F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3",
    ".  F0 F1 .  B0 F2 B1 F3 B2 .  B3 . ",
    ".  .  F0 B0 F1 B1 F2 B2 F3 B3 .  . ",
]
ONE_AT_A_TIME_2_2 = [
    "F0 .  .  B0 F1 .  .  B1",
    ".  F0 B0 .  .  F1 B1 . ",
]


def lasting(orders: Orders, duration_s: Mapping[tuple[str, int], float]) -> dict[Action, float]:
    """Return the time of every action, given by kind and stage."""
    return {action: duration_s[action.kind, action.stage] for order in orders.values() for action in order}


def drawn(orders: Orders) -> list[str]:
    """Return the replay with every action one tick long: a row a rank, a column a tick."""
    replay = simulate(orders, len(orders), lasting(orders, UNIT))
    num_ticks = round(replay.span_s)
    rows = []
    for rank in sorted(orders):
        at = {round(replay.start_s[action]): f"{action.kind}{action.micro_batch}" for action in orders[rank]}
        rows.append(" ".join(at.get(tick, ". ") for tick in range(num_ticks)))
    return rows


@pytest.mark.parametrize(
    ("orders", "golden"),
    [
        (gpipe(6, 2), GPIPE_6_2),
        (gpipe(3, 3), GPIPE_3_3),
        (one_forward_one_backward(4, 3), ONE_FORWARD_ONE_BACKWARD_4_3),
        (one_at_a_time(2, 2), ONE_AT_A_TIME_2_2),
    ],
)
def test_schedules_are_those_written_out(orders: Orders, golden: list[str]) -> None:
    assert drawn(orders) == golden


sizes = st.integers(1, 12), st.integers(1, 6)


@settings(deadline=None)
@given(*sizes)
def test_gpipe_goes_forward_in_m_plus_n_minus_1_ticks(m: int, n: int) -> None:
    replay = simulate(gpipe(m, n), n, lasting(gpipe(m, n), UNIT))
    assert max(end_s for action, end_s in replay.end_s.items() if action.kind == "F") == m + n - 1
    assert replay.span_s == 2 * (m + n - 1)


@settings(deadline=None)
@given(*sizes, st.sampled_from(["gpipe", "1f1b", "model_parallel"]))
def test_every_stage_sees_every_micro_batch_once_and_idles_as_the_formula_says(m: int, n: int, name: str) -> None:
    orders = {"gpipe": gpipe, "1f1b": one_forward_one_backward, "model_parallel": one_at_a_time}[name](m, n)
    for rank in range(n):
        assert sorted(orders[rank]) == sorted(Action(kind, rank, i) for kind in ("F", "B") for i in range(m))  # type: ignore[arg-type]
    backward_twice = {(kind, rank): 1.0 if kind == "F" else 2.0 for kind in ("F", "B") for rank in range(n)}
    replay = simulate(orders, n, lasting(orders, backward_twice))
    assert [idle_s / replay.span_s for idle_s in replay.idle_s] == pytest.approx([ideal_share(name, m, n)] * n)


@settings(deadline=None)
@given(*sizes)
def test_1f1b_keeps_no_more_in_flight_than_stages_to_come(m: int, n: int) -> None:
    for rank, order in one_forward_one_backward(m, n).items():
        in_flight = 0
        for action in order:
            in_flight += 1 if action.kind == "F" else -1
            assert in_flight <= min(m, n - rank)


def test_the_slowest_stage_sets_the_pace() -> None:
    durations = {("F", 0): 1.0, ("B", 0): 2.0, ("F", 1): 2.0, ("B", 1): 4.0}
    replay = simulate(gpipe(3, 2), 2, lasting(gpipe(3, 2), durations))
    assert replay.span_s == 1 + 3 * 2 + 3 * 4 + 2  # in, all of stage 1, out
    assert replay.idle_s == (21 - 9, 21 - 18)


def test_a_first_micro_batch_that_takes_longer_is_waited_for() -> None:
    orders = gpipe(3, 2)
    durations = lasting(orders, UNIT) | {Action("F", 0, 0): 3.0, Action("B", 1, 0): 2.0}
    replay = simulate(orders, 2, durations)
    assert replay.span_s == 3 + 3 + (2 + 1 + 1) + 1  # in, all of stage 1, out
    assert replay.idle_s == (11 - 8, 11 - 7)


def test_a_message_keeps_its_rank_and_makes_the_next_one_idle() -> None:
    orders = gpipe(2, 2)
    messages = lasting(orders, dict.fromkeys(UNIT, 0.0)) | {Action("F", 1, 0): 0.5, Action("B", 0, 0): 0.25}
    replay = simulate(orders, 2, lasting(orders, UNIT), messages)
    # Stage 1 goes from 1.5 to 5.5; stage 0 has its first gradient at 4.5, begins at 4.75, and goes on until 6.75.
    assert replay.start_s[Action("F", 1, 0)] == 1.5
    assert replay.start_s[Action("B", 0, 0)] == 4.75
    assert replay.span_s == 6.75
    assert replay.idle_s == (4.5 - 2, 1 + 6.75 - 5.5)
    assert replay.busy_s == (4, 4)


def test_a_rank_that_works_on_after_its_last_action_idles_less_at_the_end() -> None:
    orders = gpipe(2, 2)
    replay = simulate(orders, 2, lasting(orders, UNIT), after_s={0: 5.0, 1: 0.25})
    assert replay.span_s == 6
    assert replay.idle_s == (2, 1 + (6 - 5) - 0.25)


def test_a_schedule_that_waits_for_itself_is_an_error() -> None:
    with pytest.raises(ValueError, match="waits for itself"):
        simulate({0: [Action("B", 0, 0), Action("F", 0, 0)]}, 1, {})


def test_weights_need_their_own_input_gradient_alone() -> None:
    assert needs(Action("W", 1, 5), 4) == [Action("I", 1, 5)]
    assert needs(Action("I", 3, 5), 4) == [Action("F", 3, 5)]
    assert needs(Action("F", 0, 5), 4) == []


@pytest.mark.parametrize(
    ("schedule", "m", "n", "v", "share"),
    [
        ("gpipe", 6, 2, 1, 1 / 7),
        ("1f1b", 8, 4, 1, 3 / 11),
        ("interleaved", 8, 4, 2, 3 / 19),
        ("zero_bubble", 8, 4, 1, 3 / 27),
        ("zero_bubble_v", 8, 4, 2, 0.0),
        ("model_parallel", 8, 4, 1, 3 / 4),
    ],
)
def test_ideal_shares(schedule: str, m: int, n: int, v: int, share: float) -> None:
    assert ideal_share(schedule, m, n, v) == pytest.approx(share)
