"""Ratios with intervals: by hand, by invariance, and against the truth on synthetic noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsize.records import Measured
from worldsize.scaling.speedup import inverse, ratio, relative_width, scaled, step_time

times = st.lists(st.floats(0.01, 10), min_size=1, max_size=6)
rounds = st.lists(times, min_size=1, max_size=4)


def noisy_rounds(rng: np.random.Generator, step_s: float, drift: np.ndarray, between: float) -> list[list[float]]:
    """Rounds that share `drift`, differ by `between` and hold 45 steps spread by 2 %."""
    return [list(step_s * np.exp(d + rng.normal(0, between) + rng.normal(0, 0.02, 45))) for d in drift]


def test_ratio_by_hand() -> None:
    # medians of the rounds: 2, 4, 6 and 1, 2, 4; of those: 4 and 2
    found = ratio([[1, 2, 3], [4, 4, 4], [6, 6, 7]], [[1, 1, 1], [2, 2, 9], [4, 4, 4]], paired=True)
    assert found.median == 2.0
    assert found.samples == [2.0, 2.0, 1.5]
    assert 2 / 9 <= found.low < 2.0 < found.high <= 7


def test_constant_times_have_no_spread() -> None:
    found = ratio([[0.3] * 5] * 3, [[0.2] * 5] * 3, paired=True)
    assert (found.median, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


def test_drift_of_whole_rounds_cancels_only_when_paired() -> None:
    baseline, cell = [[1.0] * 9, [2.0] * 9, [4.0] * 9], [[0.5] * 9, [1.0] * 9, [2.0] * 9]
    assert relative_width(ratio(baseline, cell, paired=True)) == 0
    assert relative_width(ratio(baseline, cell, paired=False)) > 1


def test_single_run_knows_its_steps_alone() -> None:
    found = ratio([[2.0, 2.2, 1.8]], [[1.0]], paired=True)
    assert (found.median, found.low, found.high) == pytest.approx((2.0, 1.8, 2.2))


@given(rounds, rounds, st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_the_unit_of_time_does_not_matter(top: list[list[float]], bottom: list[list[float]], unit: float) -> None:
    plain = ratio(top, bottom, paired=False)
    other = ratio([[t * unit for t in r] for r in top], [[t * unit for t in r] for r in bottom], paired=False)
    assert (other.median, other.low, other.high) == pytest.approx((plain.median, plain.low, plain.high))


@given(rounds)
@settings(max_examples=30, deadline=None)
def test_step_time_lies_within_its_interval_and_samples(measured: list[list[float]]) -> None:
    found = step_time(measured)
    assert found.low <= found.median <= found.high
    assert found.samples == [float(np.median(steps)) for steps in measured]
    assert min(map(min, measured)) <= found.low
    assert found.high <= max(map(max, measured))


def test_recovers_a_known_ratio() -> None:
    rng = np.random.default_rng(7)
    drift = rng.normal(0, 0.05, 8)
    found = ratio(noisy_rounds(rng, 0.1, drift, 0.005), noisy_rounds(rng, 0.1 / 1.7, drift, 0.005), paired=True)
    assert found.median == pytest.approx(1.7, rel=0.02)
    assert found.low < 1.7 < found.high


@pytest.mark.parametrize(("num_rounds", "between", "at_least"), [(3, 0.005, 0.93), (5, 0.02, 0.86), (10, 0.02, 0.9)])
def test_interval_holds_the_truth_about_as_often_as_it_claims(num_rounds: int, between: float, at_least: float) -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        drift = rng.normal(0, 0.02, num_rounds)
        baseline, cell = noisy_rounds(rng, 0.1, drift, between), noisy_rounds(rng, 0.1 / 1.7, drift, between)
        found = ratio(baseline, cell, paired=True)
        hits += found.low <= 1.7 <= found.high
    assert hits / 100 >= at_least


def test_scaling_and_inverting_a_measured_number() -> None:
    measured = Measured(median=2.0, low=1.0, high=4.0, samples=[2.0, 4.0])
    assert scaled(measured, 0.5) == Measured(median=1.0, low=0.5, high=2.0, samples=[1.0, 2.0])
    assert inverse(measured, 8.0) == Measured(median=4.0, low=2.0, high=8.0, samples=[4.0, 2.0])
