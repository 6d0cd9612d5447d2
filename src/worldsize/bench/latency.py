"""What requests' senders see, from the moments at which tokens came. Torch-free.

Definitions follow vLLM's serving benchmark: the time to the first token (TTFT) counts from the request's arrival,
waiting included; the time per output token (TPOT) is one number a request and leaves the first token out; inter-token
latencies (ITL) are all gaps of all requests; goodput counts the requests that keep every given limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from worldsize.bench.records import Latencies, Objective, Serving


@dataclass(frozen=True)
class Timeline:
    """One completed request. Moments are seconds of one clock."""

    num_prompt_tokens: int
    arrived_s: float
    token_at_s: Sequence[float]
    """When each new token was known; at least one."""

    @property
    def ttft_ms(self) -> float:
        return (self.token_at_s[0] - self.arrived_s) * 1e3

    @property
    def e2el_ms(self) -> float:
        return (self.token_at_s[-1] - self.arrived_s) * 1e3

    @property
    def tpot_ms(self) -> float | None:
        """None for a request of one token."""
        num_gaps = len(self.token_at_s) - 1
        return (self.e2el_ms - self.ttft_ms) / num_gaps if num_gaps else None

    @property
    def itl_ms(self) -> list[float]:
        return [(after - before) * 1e3 for before, after in pairwise(self.token_at_s)]

    def keeps(self, objective: Objective) -> bool:
        """Return whether the request kept every limit that is given. One token alone keeps any TPOT."""
        limits = (
            (self.ttft_ms, objective.ttft_ms),
            (self.tpot_ms or 0.0, objective.tpot_ms),
            (self.e2el_ms, objective.e2el_ms),
        )
        return all(limit is None or value <= limit for value, limit in limits)


def latencies(values: Sequence[float]) -> Latencies:
    """Return a distribution's figures. Raises ValueError on no values."""
    if not values:
        raise ValueError("no values: a percentile of nothing is not a number")
    p50, p90, p95, p99 = (float(p) for p in np.percentile(values, [50, 90, 95, 99]))
    return Latencies(
        mean=float(np.mean(values)), std=float(np.std(values)), p50=p50, p90=p90, p95=p95, p99=p99, values=list(values)
    )


def serving(timelines: Sequence[Timeline], duration_s: float, objective: Objective) -> Serving:
    """Return what completed requests add up to; `duration_s` is the time that they took together."""
    num_prompt = sum(one.num_prompt_tokens for one in timelines)
    num_output = sum(len(one.token_at_s) for one in timelines)
    tpots = [tpot for one in timelines if (tpot := one.tpot_ms) is not None]
    gaps = [gap for one in timelines for gap in one.itl_ms]
    has_objective = any(limit is not None for limit in (objective.ttft_ms, objective.tpot_ms, objective.e2el_ms))
    num_good = sum(one.keeps(objective) for one in timelines)
    return Serving(
        num_requests=len(timelines),
        duration_s=duration_s,
        num_prompt_tokens=num_prompt,
        num_output_tokens=num_output,
        ttft_ms=latencies([one.ttft_ms for one in timelines]),
        tpot_ms=latencies(tpots) if tpots else None,
        itl_ms=latencies(gaps) if gaps else None,
        e2el_ms=latencies([one.e2el_ms for one in timelines]),
        request_throughput_per_s=len(timelines) / duration_s,
        output_throughput_tokens_per_s=num_output / duration_s,
        total_throughput_tokens_per_s=(num_prompt + num_output) / duration_s,
        request_output_tokens_per_s=float(np.median([len(one.token_at_s) / one.e2el_ms * 1e3 for one in timelines])),
        request_goodput_per_s=num_good / duration_s if has_objective else None,
        good_share=num_good / len(timelines) if has_objective else None,
    )
