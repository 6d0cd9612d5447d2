"""Pipeline schedules on paper: who computes what in which order, what depends on what, and how long ranks idle.

Torch-free. n pipeline ranks, m micro batches, v stages on each rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from worldsize.parallel.stages import Stages

Kind = Literal["F", "B", "I", "W"]
"""Forward, whole backward, and backward in two: for the stage's input, for its weights."""


class Action(NamedTuple):
    """One stage's work on one micro batch."""

    kind: Kind
    stage: int
    micro_batch: int


Orders = Mapping[int, Sequence[Action]]
"""By pipeline rank: its actions in the order in which it carries them out."""


def gpipe(num_micro_batches: int, num_ranks: int) -> Orders:
    """Return GPipe's orders: all forward, then all backward (Huang et al. 2019, arXiv:1811.06965)."""
    every = range(num_micro_batches)
    return {
        rank: [Action("F", rank, i) for i in every] + [Action("B", rank, i) for i in every] for rank in range(num_ranks)
    }


def one_forward_one_backward(num_micro_batches: int, num_ranks: int) -> Orders:
    """Return 1F1B's orders: rank r has at most n - r micro batches in flight (Narayanan et al. 2019, PipeDream)."""
    orders = {}
    for rank in range(num_ranks):
        ahead = min(num_micro_batches, num_ranks - rank)
        order = [Action("F", rank, i) for i in range(ahead)]
        for i in range(num_micro_batches):
            order.append(Action("B", rank, i))
            if i + ahead < num_micro_batches:
                order.append(Action("F", rank, i + ahead))
        orders[rank] = order
    return orders


def one_at_a_time(num_micro_batches: int, num_ranks: int) -> Orders:
    """Return the orders of naive model parallelism: a micro batch goes forth and back before the next begins."""
    return {
        rank: [Action(kind, rank, i) for i in range(num_micro_batches) for kind in ("F", "B")]
        for rank in range(num_ranks)
    }


def needs(action: Action, num_stages: int) -> list[Action]:
    """Return what must have been computed before an action can be, the kinds that a schedule does not have included."""
    kind, stage, micro_batch = action
    if kind == "F":
        return [Action("F", stage - 1, micro_batch)] if stage > 0 else []
    if kind == "W":
        return [Action("I", stage, micro_batch)]
    backward: list[Kind] = ["B", "I"]
    after = [Action(each, stage + 1, micro_batch) for each in backward] if stage < num_stages - 1 else []
    return [Action("F", stage, micro_batch), *after]


def input_of(action: Action, stages: Stages) -> list[Action]:
    """Return what an action may receive from another rank; a schedule carries out one of these, or none."""
    return [
        each
        for each in needs(action, stages.num_stages)
        if each.stage != action.stage and stages.rank_of(each.stage) != stages.rank_of(action.stage)
    ]


@dataclass(frozen=True)
class Simulated:
    """A schedule replayed, seconds."""

    start_s: Mapping[Action, float]
    end_s: Mapping[Action, float]
    span_s: float
    """Until the last action's end."""
    idle_s: tuple[float, ...]
    """By pipeline rank: how long it waits for what another has yet to compute, to the end of the span."""
    busy_s: tuple[float, ...]
    """By pipeline rank: its own actions."""


def simulate(
    orders: Orders,
    num_stages: int,
    duration_s: Mapping[Action, float],
    message_s: Mapping[Action, float] | None = None,
    after_s: Mapping[int, float] | None = None,
) -> Simulated:
    """Replay a schedule in which actions, and the messages that they wait for, take the times given.

    Each rank does its actions in order. One starts when the one before is done, all that it needs has been computed,
    and its messages (none where not given) have taken their time. After its last action a rank works by itself for
    `after_s` (by rank; none where not given) and then waits for the last rank's last action. Raises ValueError when the
    orders wait for each other in a circle.
    """
    start_s: dict[Action, float] = {}
    end_s: dict[Action, float] = {}
    planned = {action for order in orders.values() for action in order}
    position = dict.fromkeys(orders, 0)
    free_s, idle_s = dict.fromkeys(orders, 0.0), dict.fromkeys(orders, 0.0)
    while any(position[rank] < len(order) for rank, order in orders.items()):
        moved = False
        for rank, order in orders.items():
            while position[rank] < len(order):
                action = order[position[rank]]
                needed = [each for each in needs(action, num_stages) if each in planned]
                if any(each not in end_s for each in needed):
                    break
                there_s = max([free_s[rank], *(end_s[each] for each in needed)])
                idle_s[rank] += there_s - free_s[rank]
                start_s[action] = there_s + (message_s[action] if message_s else 0.0)
                free_s[rank] = end_s[action] = start_s[action] + duration_s[action]
                position[rank] += 1
                moved = True
        if not moved:
            raise ValueError("the schedule waits for itself: no rank's next action has what it needs")
    span_s, ranks = max(end_s.values()), sorted(orders)
    waits_s = {rank: max(0.0, span_s - free_s[rank] - (after_s[rank] if after_s else 0.0)) for rank in ranks}
    return Simulated(
        start_s,
        end_s,
        span_s,
        idle_s=tuple(idle_s[rank] + waits_s[rank] for rank in ranks),
        busy_s=tuple(sum(duration_s[action] for action in orders[rank]) for rank in ranks),
    )


def ideal_share(schedule: str, num_micro_batches: int, num_ranks: int, num_stages_per_rank: int = 1) -> float:
    """Return the share of a pipeline's time in which a rank idles, for equal stages and messages that take no time.

    gpipe, 1f1b: (n-1) / (m+n-1) (Huang et al. 2019; Narayanan et al. 2021, arXiv:2104.04473, section 2.2). interleaved:
    (n-1) / (v·m+n-1) (the latter). zero_bubble: (n-1) / (3·v·m+n-1), for forward and both halves of backward of equal
    length (Qi et al. 2023, arXiv:2401.10241, ZB-H1: the idle time is one forward's for each rank but one).
    zero_bubble_v: 0, with at least 2n-1 micro batches (the same, section 6). model_parallel: (n-1) / n.
    """
    m, n, v = num_micro_batches, num_ranks, num_stages_per_rank
    match schedule:
        case "gpipe" | "1f1b" | "interleaved":
            return (n - 1) / (v * m + n - 1)
        case "zero_bubble":
            return (n - 1) / (3 * v * m + n - 1)
        case "zero_bubble_v":
            return 0.0
        case "model_parallel":
            return (n - 1) / n
    raise ValueError(f"no ideal bubble is known for schedule {schedule!r}")
