"""Which rows are compared: within a series, each point with the one on the fewest devices that differs least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from worldsize.audit.records import Row
from worldsize.audit.text import RATES

SETTINGS = ("model", "data", "context_length", "precision", "optimizer", "schedule", "learning_rate", "device")
"""Columns that must be equal before two rows are compared at all."""
VARIED = (*SETTINGS, "strategy", "global_batch", "per_device_batch", "accumulation")
"""Rows on equally many devices that agree in these are repeats of one point."""


@dataclass(frozen=True)
class Point:
    """One point: rows that are repeats of each other."""

    rows: tuple[Row, ...]

    @property
    def row(self) -> Row:
        """The first repeat: what is asked of settings and counts is asked of it."""
        return self.rows[0]

    @property
    def devices(self) -> int:
        return self.row.devices or 1

    def median(self, value_of: Callable[[Row], float | None]) -> float | None:
        """Return the median over the repeats that tell the value."""
        values = [value for row in self.rows if (value := value_of(row)) is not None]
        return median(values) if values else None


@dataclass(frozen=True)
class Pair:
    """Two points and the quantity that they are compared by."""

    series: str | None
    base: Point
    point: Point
    quantity: str
    base_value: float
    value: float
    spread: float
    """Largest relative distance between repeats of either point; 0 where there are none."""

    @property
    def is_rate(self) -> bool:
        return self.quantity in RATES

    @property
    def is_weak(self) -> bool:
        return "weak" in (self.base.row.scaling, self.point.row.scaling)

    @property
    def growth(self) -> float:
        """Devices over the baseline's devices."""
        return self.point.devices / self.base.devices

    @property
    def ratio(self) -> float:
        """How many times as fast, by the numbers as they are given."""
        return self.value / self.base_value if self.is_rate else self.base_value / self.value


def time_s(row: Row) -> float | None:
    """The whole time: as given, or the slowest rank's where only the ranks' times are given."""
    if row.time_s is None and row.epoch_time_s is None and row.step_time_s is None and row.per_rank_times_s:
        return max(row.per_rank_times_s)
    return row.time_s


TIMES: dict[str, Callable[[Row], float | None]] = {
    "time_s": time_s,
    "epoch_time_s": lambda row: row.epoch_time_s,
    "step_time_s": lambda row: row.step_time_s or (median(row.step_times_s) if row.step_times_s else None),
}


def total_rate(column: str) -> Callable[[Row], float | None]:
    """Return how a column's rate over all devices is read off a row; under weak scaling it may follow from counts."""

    def rate(row: Row) -> float | None:
        given: float | None = getattr(row, column)
        if given is not None:
            return given * (row.devices or 1) if row.throughput_is == "per_rank" else given
        if row.scaling != "weak":
            return None
        if column == "tokens_per_s" and row.tokens and row.seconds:
            return row.tokens / row.seconds
        return _samples_per_s(row) if column == "samples_per_s" else None

    return rate


def _samples_per_s(row: Row) -> float | None:
    if row.all_samples and row.seconds:
        return row.all_samples / row.seconds
    batch = row.global_batch or (row.per_device_batch * row.devices if row.per_device_batch and row.devices else None)
    return batch / row.step_time_s if batch and row.step_time_s else None


def pairs_of(rows: Sequence[Row]) -> tuple[list[Pair], list[str]]:
    """Return every pair along the devices, and notes on rows that have no partner."""
    notes = []
    without = [row.where for row in rows if row.devices is None]
    if without and len(without) < len(rows):
        notes.append(f"compared with nothing, because devices is not given: {', '.join(without)}")
    by_series: dict[str | None, list[Row]] = {}
    for row in rows:
        if row.devices is not None:
            by_series.setdefault(row.series, []).append(row)
    found = []
    for series, members in by_series.items():
        for base, point in _partners(_points(members)):
            pairs = _pairs(series, base, point)
            found += pairs
            if not pairs:
                notes.append(f"{point.row.where} and {base.row.where} share no time and no rate: nothing to divide")
    return found, notes


def _points(rows: Sequence[Row]) -> list[Point]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(repr([row.devices, *(getattr(row, name) for name in VARIED)]), []).append(row)
    return sorted((Point(tuple(group)) for group in groups.values()), key=lambda point: point.devices)


def _partners(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    fewest = [point for point in points if point.devices == points[0].devices]

    def distance(point: Point, base: Point) -> int:
        return sum(getattr(base.row, name) != getattr(point.row, name) for name in VARIED)

    larger = [point for point in points if point.devices > points[0].devices]
    return [(min(fewest, key=partial(distance, point)), point) for point in larger]


def _pairs(series: str | None, base: Point, point: Point) -> list[Pair]:
    """Return at most one pair by time and one by rate; weak scaling is compared by rate alone."""
    weak = "weak" in (base.row.scaling, point.row.scaling)
    kinds = [*([] if weak else [TIMES]), {name: total_rate(name) for name in RATES}]
    pairs = []
    for kind in kinds:
        for quantity, value_of in kind.items():
            ours, theirs = point.median(value_of), base.median(value_of)
            if ours is not None and theirs is not None:
                spread = max(_spread(base, value_of), _spread(point, value_of))
                pairs.append(Pair(series, base, point, quantity, theirs, ours, spread))
                break
    return pairs


def _spread(point: Point, value_of: Callable[[Row], float | None]) -> float:
    values = [value for row in point.rows if (value := value_of(row)) is not None]
    return (max(values) - min(values)) / median(values) if len(values) > 1 else 0.0
