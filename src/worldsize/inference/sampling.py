"""How the next token is chosen from the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsize.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 takes the likeliest token; otherwise one is drawn from what top_k and top_p leave."""

    temperature: float = 0.0
    top_k: int | None = None
    """Only the k likeliest tokens."""
    top_p: float | None = None
    """Only the likeliest tokens that together have at least this probability (Holtzman et al. 2019)."""
    seed: int = 0

    def check(self) -> None:
        """Raise UserError for a value that is out of its range."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature is {self.temperature}, but must be 0 (the likeliest token) or more.")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"--top-k is {self.top_k}, but must be at least 1.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top-p is {self.top_p}, but must be above 0 and at most 1.")
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise UserError(
                "--top-k and --top-p change nothing at temperature 0. Add --temperature 1, or leave them out."
            )


GREEDY = Sampling()
"""The likeliest token, each time."""


class Chooser:
    """Chooses one request's tokens. It draws from random numbers of its own, so others in the batch change nothing."""

    def __init__(self, sampling: Sampling, index: int) -> None:
        """`index` is the request's place among those of one seed."""
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed((sampling.seed * 1_000_003 + index) % 2**63)

    def choose(self, logits_V: Tensor) -> int:
        """Return the next token's id."""
        if self.sampling.temperature == 0:
            return int(logits_V.argmax())
        shares_V = probabilities(logits_V, self.sampling)
        return int(torch.multinomial(shares_V, 1, generator=self._generator))


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """Return the distribution that a token is drawn from: temperature first, then top_k, then top_p."""
    scaled_V = logits_V.double() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < len(scaled_V):
        kept = scaled_V.topk(sampling.top_k).indices
        scaled_V = torch.full_like(scaled_V, float("-inf")).scatter(0, kept, scaled_V[kept])
    shares_V = scaled_V.softmax(-1)
    if sampling.top_p is not None:
        sorted_V, order_V = shares_V.sort(descending=True, stable=True)
        likelier_V = sorted_V.cumsum(-1) - sorted_V  # what comes before a token; the first is always kept
        kept_V = torch.where(likelier_V < sampling.top_p, sorted_V, 0.0)
        shares_V = torch.zeros_like(shares_V).scatter(0, order_V, kept_V / kept_V.sum())
    return shares_V
