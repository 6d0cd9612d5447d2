"""Gradient noise scale: how large a batch still helps, from gradient norms that data parallelism has anyway.

S. McCandlish, J. Kaplan, D. Amodei, An Empirical Model of Large-Batch Training, arXiv:1812.06162 (2018), appendix A.1:
the expected squared norm of a gradient averaged over B samples is |G|² + tr(Σ) / B. The norms of each rank's own
gradient (B small) and of their average (B big) give unbiased estimates of both terms. Torch-free.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from worldsize.errors import UserError
from worldsize.records import Record
from worldsize.scaling.interval import Interval, finite
from worldsize.scaling.laws import Floats

LEAST_STEPS = 10
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


class NoiseScale(Record):
    """The simple noise scale tr(Σ) / |G|², in samples, and what it says of the batch in use."""

    noise_scale: Interval | None = Field(
        description="samples; an end that is None has no bound; None: see absent_because"
    )
    absent_because: str | None = None
    gradient_squared: float | None = Field(None, description="estimate of |G|²: the true gradient's squared norm")
    trace_covariance: float | None = Field(None, description="estimate of tr(Σ) over single samples")
    num_steps: int
    global_batch: int
    step_efficiency: Interval | None = Field(
        None,
        description="progress of a step at this batch over that of a step with the whole gradient: 1 / (1 + noise / B)",
    )
    sample_efficiency: Interval | None = Field(
        None, description="progress of a sample at this batch over that of one in a tiny batch: 1 / (1 + B / noise)"
    )


def step_efficiency(noise_scale: ArrayLike, global_batch: float) -> Floats:
    """Return 1 / (1 + noise / B), 0-1 (McCandlish et al. 2018, section 2.2)."""
    return np.asarray(1 / (1 + np.asarray(noise_scale, dtype=np.float64) / global_batch))


def sample_efficiency(noise_scale: ArrayLike, global_batch: float) -> Floats:
    """Return 1 / (1 + B / noise), 0-1: the least samples to a loss over those needed at batch B (section 2.3)."""
    return np.asarray(1 - step_efficiency(noise_scale, global_batch))


def gradient_noise_scale(
    rank_norms: ArrayLike, averaged_norms: ArrayLike, per_rank_batch: int, *, seed: int = 0
) -> NoiseScale:
    """Return the noise scale over some steps, as a ratio of means, with a bootstrap interval over steps.

    `rank_norms` (steps × ranks): norm of each rank's gradient, averaged over its own `per_rank_batch` samples, before
    the exchange; `averaged_norms` (steps): norm of the average over ranks, before clipping. Raises UserError when norms
    are not finite or shapes disagree; too few ranks or steps, or a gradient lost in the noise, are results.
    """
    small, big = np.asarray(rank_norms, dtype=np.float64), np.asarray(averaged_norms, dtype=np.float64)
    _check(small, big, per_rank_batch)
    num_steps, num_ranks = small.shape
    global_batch = per_rank_batch * num_ranks

    def absent(reason: str) -> NoiseScale:
        return NoiseScale(noise_scale=None, absent_because=reason, num_steps=num_steps, global_batch=global_batch)

    if num_ranks < 2:
        return absent("one rank: the noise shows only between ranks; needs 2 or more data-parallel ranks")
    if num_steps < LEAST_STEPS:
        return absent(f"too few steps: {num_steps}, needs {LEAST_STEPS}")
    squares, traces = unbiased(np.mean(small**2, axis=1), big**2, per_rank_batch, global_batch)
    if squares.mean() <= 0:
        return absent(
            f"over {num_steps} steps the gradient cannot be told from its noise: measure more steps or a larger batch"
        )
    noise = max(float(traces.mean() / squares.mean()), 0.0)
    low, high = _bootstrap(squares, traces, seed)
    efficiencies = [
        step_efficiency([noise, high, low], global_batch),
        sample_efficiency([noise, low, high], global_batch),
    ]
    step, sample = (Interval(value=float(v), low=float(a), high=float(b)) for v, a, b in efficiencies)
    return NoiseScale(
        noise_scale=Interval(value=noise, low=finite(low), high=finite(high)),
        gradient_squared=float(squares.mean()),
        trace_covariance=float(traces.mean()),
        num_steps=num_steps,
        global_batch=global_batch,
        step_efficiency=step,
        sample_efficiency=sample,
    )


def unbiased(small_squared: Floats, big_squared: Floats, small_batch: int, big_batch: int) -> tuple[Floats, Floats]:
    """Return unbiased estimates of |G|² and tr(Σ) per step from squared norms at two batches (appendix A.1)."""
    squares = (big_batch * big_squared - small_batch * small_squared) / (big_batch - small_batch)
    traces = (small_squared - big_squared) / (1 / small_batch - 1 / big_batch)
    return squares, traces


def _bootstrap(squares: Floats, traces: Floats, seed: int) -> tuple[float, float]:
    """Return the interval of the ratio of means; resamples whose gradient vanishes count as infinite noise."""
    rows = np.random.default_rng(seed).integers(len(squares), size=(NUM_RESAMPLES, len(squares)))
    below, above = squares[rows].mean(axis=1), np.maximum(traces[rows].mean(axis=1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(below > 0, above / below, np.inf)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def _check(small: Floats, big: Floats, per_rank_batch: int) -> None:
    if small.ndim != 2 or big.shape != small.shape[:1]:
        raise UserError(
            f"gradient norms of shapes {small.shape} (ranks) and {big.shape} (averaged) do not belong together. "
            "Give steps × ranks and steps."
        )
    if per_rank_batch < 1:
        raise UserError(f"a batch of {per_rank_batch} samples per rank is not possible. Give 1 or more.")
    bad = ~(np.isfinite(small).all(axis=1) & np.isfinite(big) & (small >= 0).all(axis=1) & (big >= 0))
    if bad.any():
        raise UserError(
            f"step {int(np.argmax(bad))}: gradient norms must be finite and not negative. Leave out steps whose loss "
            "was not finite."
        )
