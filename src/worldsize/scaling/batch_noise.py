"""The gradient noise scale of a cell, from the norms that its runs kept, and what it says of larger batches.

The second half of the steps is used: the noise scale grows while the loss falls, steeply at first. Repeats train on the
same samples from the same weights, so that one run says what all would. Definitions: docs/explain/noise-scale.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldsize.scaling.interval import Interval
from worldsize.scaling.noise_scale import NoiseScale, gradient_noise_scale
from worldsize.study.files import Run
from worldsize.study.records import CellResult

HELPS = 2.0
"""A batch this many times below the noise scale can still double at little cost in samples."""


def noise_scale_of(runs: Sequence[Run]) -> NoiseScale | None:
    """Return the noise scale of the first run; None where its ranks hold no gradient of their own."""
    run = runs[0]
    local, whole = run.result.local_grad_norms, run.result.grad_norms
    num_ranks = run.record.layout.get("dp", 1)
    if num_ranks < 2 or num_ranks != run.record.world_size or all(norm is None for norm in local):
        return None
    batch = run.config.train.global_batch
    half = range(len(local) // 2, len(local))
    norms = [(local[step], whole[step]) for step in half if local[step] is not None and whole[step] is not None]
    if not norms:
        return NoiseScale(
            noise_scale=None,
            absent_because="the norm of the whole gradient is not known: it is kept where train.grad_clip_norm is set",
            num_steps=0,
            global_batch=batch,
        )
    small, big = np.array(norms, dtype=np.float64).T
    # the root mean square over ranks stands for each rank: only the mean of squares is used
    return gradient_noise_scale(np.repeat(small[:, None], num_ranks, axis=1), big, batch // num_ranks)


def batch_advice(cell: CellResult) -> list[str]:
    """Return what the noise scale says of a larger batch than the cell's, where it says something."""
    noise = cell.noise_scale.noise_scale if cell.noise_scale else None
    if cell.noise_scale is None or noise is None or noise.value is None:
        return []
    batch = cell.noise_scale.global_batch
    span = f"gradient noise scale {_samples(noise.value)} samples, 95 % interval {_span(noise)}"
    if noise.low is not None and noise.low >= HELPS * batch:
        return [
            f"A larger batch still helps training up to about {_samples(noise.value)} samples ({span}): below that, "
            f"twice the batch needs little more than half the steps to the same loss."
        ]
    if noise.high is not None and noise.high <= batch:
        return [
            f"The batch of {batch} is beyond what training needs ({span}): a larger one saves few steps to the same "
            f"loss, whatever it does to the speedup."
        ]
    return []


def _span(noise: Interval) -> str:
    low = "0" if noise.low is None else _samples(noise.low)
    return f"{low} and more" if noise.high is None else f"{low}-{_samples(noise.high)}"


def _samples(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 1 else f"{value:.1f}"
