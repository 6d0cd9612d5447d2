"""Values with the ends of their 95 % intervals, as records, from the set of values that the data allow. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from worldsize.records import Record
from worldsize.scaling.laws import Floats


class Interval(Record):
    """A value with the ends of its 95 % interval; an end (or the value) that is infinite is None."""

    value: float | None
    low: float | None
    high: float | None


def interval_of(values: Floats) -> Interval:
    """Return the best value (the last) and the range over all that the data allow."""
    return Interval(value=finite(values[-1]), low=finite(values.min()), high=finite(values.max()))


def further_run(values: Floats, run_margin: float) -> Interval:
    """Return the interval of one further run: the values' own, each side widened in log by a run's scatter."""
    best, low, high = float(values[-1]), float(values.min()), float(values.max())
    with np.errstate(all="ignore"):  # a best value of zero or infinity has no ends: they become None
        down, up = np.log(np.float64(best) / low), np.log(np.float64(high) / best)
        ends = best * np.exp(-np.hypot(down, run_margin)), best * np.exp(np.hypot(up, run_margin))
    return Interval(value=finite(best), low=finite(ends[0]), high=finite(ends[1]))


def hull(own: Interval, others: Sequence[Interval]) -> Interval:
    """Return `own` with ends that hold the intervals of all others."""
    lows, highs = [one.low for one in [own, *others]], [one.high for one in [own, *others]]
    return Interval(
        value=own.value,
        low=min((low for low in lows if low is not None), default=None) if None not in lows else None,
        high=max((high for high in highs if high is not None), default=None) if None not in highs else None,
    )


def finite(value: float) -> float | None:
    """Return the value, or None for what JSON cannot hold: no limit."""
    return float(value) if math.isfinite(value) else None
