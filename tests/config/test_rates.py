"""Link rates as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.config.rates import parse_rate, rate_text
from worldsize.errors import UserError


@pytest.mark.parametrize(
    ("text", "bit_per_s"),
    [
        ("1gbit", 1e9), ("10Gbit", 1e10), ("100mbit", 1e8), ("2.5gbit", 2.5e9), (" 500 kbit/s ", 5e5), ("1gbitps", 1e9),
    ],
)  # fmt: skip
def test_rates_are_bits_per_second(text: str, bit_per_s: float) -> None:
    assert parse_rate(text) == pytest.approx(bit_per_s)


@pytest.mark.parametrize("text", ["1gb", "1gbps", "1e9", "1", "gbit", "-1gbit", "1GB/s", "1gbyte", "", "nangbit"])
def test_what_could_be_bytes_or_nothing_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"no link rate.*e\.g\. 1gbit"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["1kbit", "0gbit", "2000gbit"])
def test_what_cannot_be_emulated_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="outside of what can be emulated"):
        parse_rate(text)


@given(st.floats(min_value=2e5, max_value=9e11))
def test_a_written_rate_reads_back_within_its_three_figures(bit_per_s: float) -> None:
    text = rate_text(bit_per_s).replace(" ", "").lower()
    if "e+" not in text:
        assert parse_rate(text) == pytest.approx(bit_per_s, rel=6e-3)
