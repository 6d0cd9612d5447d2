"""Interval algebra against counting points on an integer grid."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worldsize.measure.intervals import clip, difference, length, union

interval = st.tuples(st.integers(0, 40), st.integers(0, 40))
intervals = st.lists(interval, max_size=12)


def points(found: list[tuple[float, float]]) -> set[int]:
    return {p for start, end in found for p in range(int(start), int(end))}


@given(intervals)
def test_union_covers_the_same_points_in_order_and_apart(given_intervals: list[tuple[int, int]]) -> None:
    merged = union(given_intervals)
    assert points(merged) == points(given_intervals)
    assert all(before[1] < after[0] for before, after in pairwise(merged))
    assert length(given_intervals) == len(points(given_intervals))


@given(intervals, intervals)
def test_difference_removes_exactly_the_holes(given_intervals: list, holes: list) -> None:
    assert points(difference(given_intervals, holes)) == points(given_intervals) - points(holes)


@given(intervals, interval)
def test_clip_keeps_what_lies_inside(given_intervals: list, window: tuple[int, int]) -> None:
    assert points(clip(given_intervals, window)) == points(given_intervals) & points([window])


def test_overlapping_events_are_not_summed() -> None:
    assert length([(0, 10), (5, 15), (20, 21)]) == 16
    assert difference([(0, 10)], [(2, 3), (5, 20)]) == [(0, 2), (3, 5)]
