"""Choosing tokens: against distributions worked out by hand, and against frequencies."""

from __future__ import annotations

import math

import pytest
import torch

from worldsize.errors import UserError
from worldsize.inference.sampling import Chooser, Sampling, probabilities

SHARES = torch.tensor([0.1, 0.4, 0.2, 0.3])
LOGITS = SHARES.log() + 5


def shares(**options: float) -> list[float]:
    return probabilities(LOGITS, Sampling(**{"temperature": 1.0, **options})).tolist()  # type: ignore[arg-type]


def test_distributions_by_hand() -> None:
    assert shares() == pytest.approx([0.1, 0.4, 0.2, 0.3])
    assert shares(top_k=2) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert shares(top_k=9) == pytest.approx([0.1, 0.4, 0.2, 0.3])
    assert shares(top_p=0.69) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert shares(top_p=0.71) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9])
    assert shares(top_p=1e-9) == pytest.approx([0, 1, 0, 0])
    squares = [0.01, 0.16, 0.04, 0.09]
    assert shares(temperature=0.5) == pytest.approx([square / 0.3 for square in squares])
    assert shares(top_k=3, top_p=0.5) == pytest.approx([0, 4 / 7, 0, 3 / 7])  # of 4/9, 3/9, 2/9 two reach a half


def test_frequencies_follow_the_distribution() -> None:
    chooser = Chooser(Sampling(temperature=1.0), 0)
    num_draws = 4000
    counts = torch.bincount(torch.tensor([chooser.choose(LOGITS) for _ in range(num_draws)]), minlength=4)
    for count, share in zip(counts.tolist(), SHARES.tolist(), strict=True):
        assert abs(count - num_draws * share) < 5 * math.sqrt(num_draws * share * (1 - share))


def test_a_seed_gives_the_same_tokens_and_requests_differ() -> None:
    def draws(seed: int, index: int) -> list[int]:
        chooser = Chooser(Sampling(temperature=1.0, seed=seed), index)
        return [chooser.choose(LOGITS) for _ in range(40)]

    assert draws(1, 0) == draws(1, 0)
    assert len({tuple(draws(seed, index)) for seed in (1, 2) for index in (0, 1)}) == 4
    assert Chooser(Sampling(), 0).choose(LOGITS) == 1


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(temperature=-1), "--temperature is -1"),
        (Sampling(temperature=math.nan), "--temperature is nan"),
        (Sampling(temperature=1, top_k=0), "--top-k is 0"),
        (Sampling(temperature=1, top_p=1.5), "--top-p is 1.5"),
        (Sampling(top_k=5), "change nothing at temperature 0"),
    ],
)
def test_values_out_of_range_are_refused(sampling: Sampling, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sampling.check()
