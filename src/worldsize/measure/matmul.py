"""The best matrix-product rates that this very device reaches: the honest denominator where no peak is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsize.measure.clock import cuda_event
from worldsize.models.linear import linear

CPU_SHAPES = ((1024, 1024, 1024), (2048, 1536, 384), (2048, 384, 1536))
CUDA_SHAPES = ((8192, 8192, 8192), (16384, 4096, 4096), (4096, 16384, 4096))
"""(rows, outputs, inputs) of the linear layers that are timed; the best of them counts."""


class MatmulRates(NamedTuple):
    """Best rates over the shapes, FLOP/s."""

    best: float
    """By the fastest way known here: what the model's own linear layers use."""
    stock: float
    """By torch's `F.linear`."""


@torch.no_grad()
def matmul_rates(device: torch.device, dtype: torch.dtype, *, budget_s: float = 0.4) -> MatmulRates:
    """Return the best rates over a few linear-layer shapes on this rank's device and threads. Synchronises.

    The fastest single call counts, since whatever else the machine does can only slow a call down.
    """
    shapes = CUDA_SHAPES if device.type == "cuda" else CPU_SHAPES
    each_s = budget_s / len(shapes) / 2
    stock = max(_rate(F.linear, device, dtype, shape, each_s) for shape in shapes)
    ours = max(_rate(linear, device, dtype, shape, each_s) for shape in shapes)
    return MatmulRates(best=max(ours, stock), stock=stock)


Product = Callable[[Tensor, Tensor], Tensor]


def _rate(
    product: Product, device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], budget_s: float
) -> float:
    rows, outputs, inputs = shape
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    weight = torch.randn(outputs, inputs, device=device, dtype=dtype)
    product(x, weight)
    best_s = float("inf")
    until_s = time.perf_counter() + budget_s
    while time.perf_counter() < until_s:
        best_s = min(best_s, _timed_s(product, x, weight))
    return 2 * rows * outputs * inputs / best_s


def _timed_s(product: Product, x: Tensor, weight: Tensor) -> float:
    if x.device.type != "cuda":
        began_s = time.perf_counter()
        product(x, weight)
        return time.perf_counter() - began_s
    began, ended = cuda_event(), cuda_event()
    began.record()
    product(x, weight)
    ended.record()
    torch.cuda.synchronize(x.device)
    return float(began.elapsed_time(ended)) / 1e3
