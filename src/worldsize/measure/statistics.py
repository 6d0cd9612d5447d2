"""Medians and shares with their intervals. Torch-free; used by every ring that holds samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from worldsize.records import Measured

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


def measured(samples: Sequence[float], *, seed: int = 0) -> Measured:
    """Return the samples' median and its percentile-bootstrap interval (95 %, 2000 resamples, fixed seed).

    One sample has no spread to estimate: its interval is the sample itself. Raises ValueError on no samples.
    Formula: Efron & Tibshirani, An Introduction to the Bootstrap, ch. 13.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no samples: an interval of nothing is not a number")
    resamples = np.random.default_rng(seed).choice(values, size=(NUM_RESAMPLES, values.size))
    return interval(values, np.median(resamples, axis=1), center=float(np.median(values)))


def interval(samples: Sequence[float] | np.ndarray, estimates: np.ndarray, *, center: float) -> Measured:
    """Return `center` with the 95 % percentile interval of bootstrap `estimates`, and the samples it came from."""
    low, high = percentiles(estimates)
    return Measured(median=center, low=min(low, center), high=max(high, center), samples=[float(s) for s in samples])


def percentiles(estimates: np.ndarray) -> tuple[float, float]:
    """Return the ends of what the middle 95 % of `estimates` lie in."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return float(low), float(high)


def wilson(num_right: int, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, of `num_right` out of `num` (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, spread = num_right / num, z * z / num
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / num + spread / (4 * num))
    return min(share, middle - half), max(share, middle + half)  # equal to it at 0 and 1, but for rounding
