from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.records import Measured
from worldsize.report.numbers import (
    GIB,
    MIB,
    MILLISECONDS,
    ONE,
    bytes_unit,
    count,
    decimals,
    in_words,
    places_for,
    show,
    time_unit,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.5, "1.50"), (12345.6, "12,346"), (0.00123456, "0.00123"), (99.96, "100.0"), (-0.5, "-0.500")],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert show(value) == text


@pytest.mark.parametrize(("largest_s", "name"), [(0.0, "s"), (3e-5, "µs"), (0.02, "ms"), (0.999, "ms"), (1.0, "s")])
def test_times_choose_their_unit(largest_s: float, name: str) -> None:
    assert time_unit([largest_s, largest_s / 10]).name == name


def test_bytes_choose_their_unit() -> None:
    assert bytes_unit([2**20, 2**30]) == GIB
    assert bytes_unit([2**20]) == MIB


def test_an_interval_shows_as_many_places_as_part_its_ends() -> None:
    narrow = Measured(median=0.05214, low=0.05211, high=0.05219, samples=[1, 2])
    assert in_words(narrow, MILLISECONDS) == "52.14 ms (52.11–52.19)"
    assert in_words(Measured(median=1.72, low=1.72, high=1.72, samples=[1.72])) == "1.72"


@given(st.floats(1e-9, 1e9), st.floats(0, 1))
def test_shown_numbers_stay_within_half_a_percent(value: float, spread: float) -> None:
    measured = Measured(median=value, low=value * (1 - spread / 2), high=value * (1 + spread), samples=[value, value])
    places = places_for(measured, ONE)
    assert 0 <= places <= decimals(value, 5)
    assert float(show(value, places).replace(",", "")) == pytest.approx(value, rel=0.0051)


def test_counts_agree_with_their_noun() -> None:
    assert [count(1, "device"), count(2, "device"), count(1000, "step")] == ["1 device", "2 devices", "1,000 steps"]
