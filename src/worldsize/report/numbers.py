"""Numbers as people read them: units chosen once a column, digits that the spread allows. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from worldsize.records import Measured
from worldsize.scaling.interval import Interval


@dataclass(frozen=True)
class Unit:
    """How a stored number is shown: the factor it is multiplied by and the unit's name."""

    factor: float
    name: str


SECONDS, MILLISECONDS, MICROSECONDS = Unit(1.0, "s"), Unit(1e3, "ms"), Unit(1e6, "µs")
ONE, PERCENT = Unit(1.0, ""), Unit(100.0, "%")
MIB, GIB = Unit(2.0**-20, "MiB"), Unit(2.0**-30, "GiB")


def time_unit(values_s: Iterable[float]) -> Unit:
    """Return the unit in which the largest of `values_s` has one to three digits before the point."""
    largest = max((v for v in values_s if math.isfinite(v)), default=0.0)
    if largest >= 1 or largest == 0:
        return SECONDS
    return MILLISECONDS if largest >= 1e-3 else MICROSECONDS


def bytes_unit(values_bytes: Iterable[float]) -> Unit:
    """Return GiB when the largest of `values_bytes` reaches one, else MiB."""
    return GIB if max(values_bytes, default=0) >= 2**30 else MIB


def decimals(value: float, digits: int = 3) -> int:
    """Return the places after the point that give `value` `digits` significant digits."""
    if value == 0 or not math.isfinite(value):
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def show(value: float, places: int | None = None) -> str:
    """Return `value` with thousands separated; three significant digits unless `places` says otherwise."""
    if not math.isfinite(value):
        return "not finite"
    places = decimals(value) if places is None else places
    return f"{value:,.{places}f}" if places <= 9 else f"{value:.2e}"


def places_for(value: Measured, unit: Unit = ONE) -> int:
    """Return places after the point at which the interval's ends part from the median: 3 to 5 significant digits."""
    center = value.median * unit.factor
    half_width = (value.high - value.low) * unit.factor / 2
    least = decimals(center, 3)
    if half_width <= 0 or not math.isfinite(half_width):
        return least
    return min(max(least, decimals(half_width, 1)), decimals(center, 5))


def show_interval(value: Measured, unit: Unit, places: int) -> str:
    """Return '51.3–53.0' in `unit`, or '' when there is one sample and so no interval."""
    if len(value.samples) < 2:
        return ""
    return f"{show(value.low * unit.factor, places)}–{show(value.high * unit.factor, places)}"


def in_words(value: Measured, unit: Unit = ONE) -> str:
    """Return '52.1 ms (51.3–53.0)'."""
    places = places_for(value, unit)
    ends = show_interval(value, unit, places)
    text = f"{show(value.median * unit.factor, places)} {unit.name}".rstrip()
    return f"{text} ({ends})" if ends else text


def interval_places(value: Interval, unit: Unit = ONE) -> int:
    """Return places after the point for an interval that may lack ends: as `places_for`, where both are known."""
    middle = (value.value or 0.0) * unit.factor
    if value.low is None or value.high is None:
        return decimals(middle, 3)
    ends = Measured(median=value.value or 0.0, low=value.low, high=value.high, samples=[])
    return min(places_for(ends, unit), decimals(middle, 4))


def interval_ends(value: Interval, unit: Unit, places: int) -> str:
    """Return '51.3–53.0' in `unit`; an end without a bound is '∞' above and '0' below; '' for a single value."""
    if value.low == value.high == value.value:
        return ""
    low = "0" if value.low is None else show(value.low * unit.factor, places)
    high = "∞" if value.high is None else show(value.high * unit.factor, places)
    return f"{low}–{high}"


def interval_in_words(value: Interval, unit: Unit = ONE) -> str:
    """Return '52.1 ms (51.3–53.0)', or 'no limit (3.1–∞)' where the value itself is infinite."""
    places = interval_places(value, unit)
    ends = interval_ends(value, unit, places)
    middle = "no limit" if value.value is None else f"{show(value.value * unit.factor, places)} {unit.name}".rstrip()
    return f"{middle} ({ends})" if ends else middle


def count(number: int, noun: str) -> str:
    """Return '1 device' or '2 devices'."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
