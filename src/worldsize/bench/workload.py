"""Which requests come, and when. Torch-free.

Closed loop: so many senders, each of whom sends its next request when its last one is answered. Open loop: requests
come at moments that do not depend on how fast they are served, as a Poisson process (MLPerf's "server" scenario).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldsize.errors import UserError


@dataclass(frozen=True)
class Lengths:
    """A number of tokens, or a range from which each request draws evenly."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str, option: str) -> Lengths:
        """Read '128' or '16-96'. Raises UserError that names the option."""
        low, _, high = text.partition("-")
        try:
            lengths = cls(int(low), int(high or low))
        except ValueError:
            lengths = cls(0, 0)
        if not 1 <= lengths.low <= lengths.high:
            raise UserError(f"{option} is {text!r}, but must be a number of tokens such as 128, or a range: 16-96.")
        return lengths

    def draw(self, random: np.random.Generator) -> int:
        return int(random.integers(self.low, self.high + 1))


@dataclass(frozen=True)
class Ask:
    """One request to come: token ids, how many new ones, and when it arrives after the beginning (open loop)."""

    prompt: Sequence[int]
    num_new_tokens: int
    arrives_s: float = 0.0


def asks(
    num_requests: int, prompt: Lengths, new: Lengths, vocab_size: int, seed: int, *, rate_per_s: float | None = None
) -> list[Ask]:
    """Return the same requests for the same arguments: prompts of random tokens, and Poisson arrivals if `rate_per_s`.

    The first arrives at 0; the gaps after it are exponential with mean 1 / rate. Lengths and tokens do not depend on
    the rate.
    """
    random = np.random.default_rng(seed)
    made = [
        Ask(random.integers(vocab_size, size=prompt.draw(random)).tolist(), new.draw(random))
        for _ in range(num_requests)
    ]
    if rate_per_s is None:
        return made
    gaps_s = np.random.default_rng([seed, 1]).exponential(1 / rate_per_s, size=num_requests - 1)
    arrivals_s = [0.0, *np.cumsum(gaps_s).tolist()]
    return [Ask(ask.prompt, ask.num_new_tokens, at) for ask, at in zip(made, arrivals_s, strict=True)]
