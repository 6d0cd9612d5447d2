"""Rules about the clock: what was timed, and from when on it counted. Part of RULES in scaling/rules.py.

The shape of a rule is that of scaling/rules.py; the context is written as a protocol so that this module can be
imported from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from worldsize.records import Problem
from worldsize.scaling.wording import percent, time_text
from worldsize.study.cells import MeasuredCell
from worldsize.study.comparability import in_runs
from worldsize.study.files import Run

MISSED = 0.5
"""Steps that fill less than this share of the wall time that is theirs: evaluations and checksums explain the rest of
an ordinary run, which is a tenth or so."""
MORE_THAN_THERE_IS = 0.05
SLOW_START = 1.5
"""A first counted step that takes this much longer than the median belongs to warm-up."""
ENOUGH_STEPS = 5
MEASURING_COST = 0.01
FORWARD_SHARE = 1 / 3
"""An evaluated token costs a third of a trained one: forward without backward."""


class HasCell(Protocol):
    @property
    def cell(self) -> MeasuredCell: ...


@dataclass(frozen=True)
class SlowStart:
    """How slow the first steps that count are (s)."""

    num_slow: int
    first_s: float
    typical_s: float
    mean_s: float


def slow_start(step_times_s: Sequence[float]) -> SlowStart | None:
    """Return how slow the first counted steps are, or None where they are like the rest or there are too few."""
    if len(step_times_s) < ENOUGH_STEPS:
        return None
    typical_s = median(step_times_s)
    num_slow = next((i for i, s in enumerate(step_times_s) if s <= SLOW_START * typical_s), len(step_times_s))
    if num_slow == 0 or max(step_times_s[num_slow:]) > step_times_s[0]:  # slower ones come later: noise, not warm-up
        return None
    return SlowStart(num_slow, step_times_s[0], typical_s, sum(step_times_s) / len(step_times_s))


def slow_start_text(start: SlowStart) -> str:
    """Return the sentence that both our own runs and other people's get."""
    first = (
        "the first counted step takes"
        if start.num_slow == 1
        else f"the first {start.num_slow} counted steps take up to"
    )
    return (
        f"{first} {time_text(start.first_s)} against a median of {time_text(start.typical_s)}: warm-up was counted "
        f"(the mean, {time_text(start.mean_s)}, is {percent(start.mean_s / start.typical_s - 1)} above the median)"
    )


def communication_on_one_device(context: HasCell) -> list[Problem]:
    """Communication booked where there is nobody to talk to: the timer is around something else."""

    def find(run: Run) -> str | None:
        booked_s = run.result.phases_s.get("exposed_communication_s", 0.0)
        if run.record.world_size > 1 or booked_s <= 0:
            return None
        return f"one device reports {time_text(booked_s)} of communication a step. That is not communication"

    return in_runs("communication-on-one-device", "warns", context.cell.runs, find)


def timer_misses_time(context: HasCell) -> list[Problem]:
    """Step times whose sum is far from the wall time between the first step's start and the last one's end.

    The rows of all steps are summed: the median would leave out a first step that compiled for a minute. They are read
    only where the medians look wrong.
    """

    def find(run: Run) -> str | None:
        wall_s, num_steps = run.result.wall_s, run.result.num_steps
        if wall_s <= 0 or _fits(run, run.result.step_time_s.median * num_steps):
            return None
        rows = run.steps
        sum_s = max((sum(row.wall_s for row in ranked) for ranked in rows.values()), default=0.0)
        if sum_s <= 0 or _fits(run, sum_s):
            return None
        told = f"{num_steps} steps sum to {time_text(sum_s)}, the wall time is {time_text(wall_s)}"
        if sum_s > wall_s:
            return f"{told}: more than there is, so that a clock is wrong"
        return f"{told}: the timer is around the wrong thing, or misses most of the step"

    return in_runs("timer-misses-time", "blocks", context.cell.runs, find)


def _fits(run: Run, sum_s: float) -> bool:
    """Tell whether steps of `sum_s` seconds and the run's evaluations fit its wall time."""
    evaluated = sum(evaluation.num_tokens for evaluation in run.result.evaluations)
    own_s = run.result.wall_s / (1 + FORWARD_SHARE * evaluated / run.result.num_tokens)
    return MISSED * own_s <= sum_s <= run.result.wall_s * (1 + MORE_THAN_THERE_IS)


def missing_warmup(context: HasCell) -> list[Problem]:
    """No steps left out of the timing, or so few that the first counted ones are far slower in most repeats."""

    def find(run: Run) -> str | None:
        start = slow_start(run.step_times_s)
        if start:
            return slow_start_text(start)
        if run.result.num_warmup_steps > 0:
            return None
        return "no step was left out of the timing as warm-up: set measure.warmup_steps to 5 or so"

    runs = context.cell.runs
    if sum(find(run) is not None for run in runs) * 2 <= len(runs):
        return []
    return in_runs("missing-warmup", "warns", runs, find)


def measuring_costs(context: HasCell) -> list[Problem]:
    """Clock marks that slow the step by more than one percent, beyond the noise."""

    def find(run: Run) -> str | None:
        cost = run.result.measuring_cost
        if cost is None or cost.share_of_step <= MEASURING_COST or cost.per_step_s.low <= 0:
            return None
        return f"measuring takes {cost.share_of_step * 100:.1f} % of the step"

    return in_runs("measuring-costs", "warns", context.cell.runs, find)


TIMING_RULES = (communication_on_one_device, timer_misses_time, missing_warmup, measuring_costs)
