"""How a rank's waiting is parted: two ranks' steps with times worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from worldsize.measure.pipeline_log import (
    Done,
    PipelineLog,
    RankStep,
    bubble_after_s,
    bubble_within_s,
    part,
    replayed,
)
from worldsize.parallel.schedule import Action
from worldsize.parallel.stages import Stages
from worldsize.records import PHASES

TWO = Stages((1, 1), 2, "loop")


def rank_step(
    actions: Sequence[tuple[str, int, float, float]],
    ended_s: float,
    *,
    waits_s: tuple[tuple[float, float], ...] = (),
    talks_s: float = 0.0,
) -> RankStep:
    """Return a step that began at 0; actions are (kind, stage, start, end) of micro batch 0."""
    done = tuple(Done(Action(kind, stage, 0), start_s, end_s) for kind, stage, start_s, end_s in actions)  # type: ignore[arg-type]
    return RankStep(began_s=0.0, ended_s=ended_s, actions=done, talks_s=talks_s, waits_s=waits_s)


# Rank 0 computes from 0 to 2, its message takes until 2.5; rank 1 computes until 8.5, and the way back takes 0.25.
FIRST = rank_step([("F", 0, 0.0, 2.0), ("B", 0, 8.75, 11.0)], 11.125, waits_s=((11.5, 12.0),), talks_s=0.75)
SECOND = rank_step([("F", 1, 2.5, 4.5), ("B", 1, 4.75, 8.5)], 9.0, waits_s=((9.25, 12.0),))
RANKS = {0: FIRST, 1: SECOND}


def phases(scheduled_s: float, exposed_s: float) -> dict[str, float]:
    """Return phases as they are before they are parted: the whole schedule is booked as bubble."""
    return {**dict.fromkeys(PHASES, 0.0), "bubble_s": scheduled_s, "exposed_communication_s": exposed_s}


def test_waiting_is_bubble_until_the_other_has_computed() -> None:
    assert bubble_within_s(RANKS, 0, TWO) == 8.5 - 2.0
    # Until rank 0's forward was done, and after its own last action while rank 0 still computed.
    assert bubble_within_s(RANKS, 1, TWO) == 2.0 + (9.0 - 8.5)


def test_of_an_exchange_after_the_schedule_bubble_is_what_others_still_compute() -> None:
    assert bubble_after_s(RANKS, 0) == 0.0
    assert bubble_after_s(RANKS, 1) == 11.0 - 9.25


def test_the_phases_of_both_ranks_close() -> None:
    first, second = phases(11.125, 0.5), phases(9.0, 2.75)
    part(first, RANKS, 0, TWO)
    part(second, RANKS, 1, TWO)
    assert first["compute_s"] == 2.0 + 2.25 - 0.75
    assert first["bubble_s"] == 6.5
    assert first["exposed_communication_s"] == pytest.approx(0.25 + 0.125 + 0.5 + 0.75)
    assert second["compute_s"] == 5.75
    assert second["bubble_s"] == 2.0 + 0.5 + 1.75
    assert second["exposed_communication_s"] == pytest.approx(0.5 + 0.25 + 1.0)
    assert sum(first.values()) == pytest.approx(11.625)
    assert sum(second.values()) == pytest.approx(11.75)


def test_a_message_that_was_there_in_time_makes_no_bubble() -> None:
    late = rank_step([("F", 1, 3.0, 4.0), ("B", 1, 4.0, 5.0)], 5.0)
    early = rank_step([("F", 0, 0.0, 1.0), ("B", 0, 6.0, 7.0)], 7.0)
    assert bubble_within_s({0: early, 1: late}, 1, TWO) == 1.0
    assert bubble_within_s({0: early, 1: late}, 0, TWO) == 5.0 - 1.0


def a_step(forward_s: tuple[float, float], message_s: float) -> dict[int, RankStep]:
    """Return both ranks' step: forwards of the lengths given, backwards of a second, the same message each way."""
    first, second = forward_s
    there = first + message_s
    turned = there + second + 1  # rank 1 has computed
    back = turned + message_s
    return {
        0: rank_step([("F", 0, 0.0, first), ("B", 0, back, back + 1)], back + 1, waits_s=((back + 1, back + 1),)),
        1: rank_step([("F", 1, there, there + second), ("B", 1, there + second, turned)], turned,
                     waits_s=((turned + 0.25, back + 1),)),
    }  # fmt: skip


def log_of(*steps: dict[int, RankStep]) -> PipelineLog:
    nowhere: Any = None
    log = PipelineLog(torch.device("cpu"), TWO, 0, nowhere)
    log.steps.extend(steps)
    return log


def test_a_replay_takes_each_steps_own_actions_and_the_messages_mean() -> None:
    log = log_of(a_step((1, 2), 0.5), a_step((3, 1), 0.25), a_step((1, 1), 0.75))
    found = replayed(log, "gpipe", 1, num_steps=3)
    assert found is not None
    # Messages take 0.5. Rank 0 idles for rank 1's forward, backward and its message; rank 1 for rank 0's forward, and
    # for the message back and rank 0's backward less the 0.25 in which it works by itself.
    idle_s = [(second + 1 + 0.5 + first + 0.5 + 1 - 0.25) / 2 for first, second in ((1, 2), (3, 1), (1, 1))]
    busy_s = [(first + second + 2) / 2 for first, second in ((1, 2), (3, 1), (1, 1))]
    assert found.simulated_s == sorted(idle_s)[1]
    assert found.simulated_share == pytest.approx(sum(idle_s) / sum(idle_s + busy_s))
    assert found.ideal_share == 0.5


def test_only_the_steps_asked_for_are_replayed() -> None:
    log = log_of(a_step((100, 100), 50), a_step((1, 1), 0.0))
    found = replayed(log, "gpipe", 1, num_steps=1)
    assert found is not None
    assert found.simulated_s == (2 + (1 + 1 - 0.25)) / 2
    assert replayed(log_of(), "gpipe", 1, num_steps=1) is None


def test_where_messages_are_even_the_replay_is_what_was_observed() -> None:
    steps = [a_step((1, 2), 0.5), a_step((3, 1), 0.5), a_step((2, 2), 0.5)]
    observed_s = [sum(bubble_within_s(r, k, TWO) + bubble_after_s(r, k) for k in r) / 2 for r in steps]
    found = replayed(log_of(*steps), "gpipe", 1, num_steps=3)
    assert found is not None
    assert found.simulated_s == pytest.approx(sorted(observed_s)[1])
