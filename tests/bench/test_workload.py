"""Requests to come: lengths, tokens, and a Poisson process."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from worldsize.bench.workload import Lengths, asks
from worldsize.errors import UserError


@pytest.mark.parametrize(("text", "expected"), [("128", Lengths(128, 128)), ("16-96", Lengths(16, 96))])
def test_lengths_as_they_are_typed(text: str, expected: Lengths) -> None:
    assert Lengths.parse(text, "--prompt-tokens") == expected


@pytest.mark.parametrize("text", ["", "0", "x", "9-3", "-5", "1-2-3"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"--new-tokens is .* 16-96"):
        Lengths.parse(text, "--new-tokens")


def test_the_same_seed_asks_the_same_whatever_the_rate() -> None:
    closed = asks(20, Lengths(16, 96), Lengths(16, 64), 50, seed=3)
    coming = asks(20, Lengths(16, 96), Lengths(16, 64), 50, seed=3, rate_per_s=5.0)
    assert [(a.prompt, a.num_new_tokens) for a in closed] == [(a.prompt, a.num_new_tokens) for a in coming]
    assert closed != asks(20, Lengths(16, 96), Lengths(16, 64), 50, seed=4)
    assert all(16 <= len(a.prompt) <= 96 and 16 <= a.num_new_tokens <= 64 for a in closed)
    assert {token for a in closed for token in a.prompt} == set(range(50))


def test_arrivals_are_a_poisson_process() -> None:
    """Gaps are exponential with the mean that was asked for, and twice the rate halves every one of them."""
    arrivals_s = [ask.arrives_s for ask in asks(2001, Lengths(1, 1), Lengths(1, 1), 9, seed=0, rate_per_s=4.0)]
    assert arrivals_s[0] == 0
    gaps_s = np.diff(arrivals_s)
    assert stats.kstest(gaps_s, "expon", args=(0, 0.25)).pvalue > 0.05
    assert not stats.kstest(gaps_s, "expon", args=(0, 0.3)).pvalue > 0.05
    twice = [ask.arrives_s for ask in asks(2001, Lengths(1, 1), Lengths(1, 1), 9, seed=0, rate_per_s=8.0)]
    np.testing.assert_allclose(np.diff(twice), gaps_s / 2)
