"""Interval algebra: unions and differences of half-open intervals [start, end). Torch-free.

Durations of overlapping events must never be summed; the length of their union is what counts.
"""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[float, float]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the same points as disjoint intervals in ascending order; empty and reversed ones vanish."""
    merged: list[Interval] = []
    for start, end in sorted(i for i in intervals if i[1] > i[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def difference(intervals: Iterable[Interval], without: Iterable[Interval]) -> list[Interval]:
    """Return the points of `intervals` that lie in none of `without`."""
    holes = union(without)
    remaining: list[Interval] = []
    first = 0
    for start, end in union(intervals):
        while first < len(holes) and holes[first][1] <= start:
            first += 1
        at = start
        for hole_start, hole_end in holes[first:]:
            if hole_start >= end:
                break
            if hole_start > at:
                remaining.append((at, hole_start))
            at = max(at, hole_end)
        if at < end:
            remaining.append((at, end))
    return remaining


def clip(intervals: Iterable[Interval], window: Interval) -> list[Interval]:
    """Return the parts of `intervals` that lie inside `window`."""
    return union((max(start, window[0]), min(end, window[1])) for start, end in intervals)


def length(intervals: Iterable[Interval]) -> float:
    """Return how long the union lasts."""
    return sum(end - start for start, end in union(intervals))
