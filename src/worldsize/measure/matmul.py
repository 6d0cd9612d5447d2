"""The best matrix-product rate that this very device reaches: the honest denominator where no peak is known."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from worldsize.measure.clock import cuda_event

CPU_SHAPES = ((1024, 1024, 1024), (2048, 1536, 384), (2048, 384, 1536))
CUDA_SHAPES = ((8192, 8192, 8192), (16384, 4096, 4096), (4096, 16384, 4096))
"""(rows, outputs, inputs) of the linear layers that are timed; the best of them counts."""


def matmul_flop_per_s(device: torch.device, dtype: torch.dtype, *, budget_s: float = 0.3) -> float:
    """Return the best rate over a few linear-layer shapes, FLOP/s, on this rank's device and threads. Synchronises.

    The fastest single call counts, since whatever else the machine does can only slow a call down.
    """
    shapes = CUDA_SHAPES if device.type == "cuda" else CPU_SHAPES
    return max(_rate(device, dtype, shape, budget_s / len(shapes)) for shape in shapes)


def _rate(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], budget_s: float) -> float:
    rows, outputs, inputs = shape
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    weight = torch.randn(outputs, inputs, device=device, dtype=dtype)
    F.linear(x, weight)
    best_s = float("inf")
    until_s = time.perf_counter() + budget_s
    while time.perf_counter() < until_s:
        best_s = min(best_s, _timed_linear_s(x, weight))
    return 2 * rows * outputs * inputs / best_s


def _timed_linear_s(x: torch.Tensor, weight: torch.Tensor) -> float:
    if x.device.type != "cuda":
        began_s = time.perf_counter()
        F.linear(x, weight)
        return time.perf_counter() - began_s
    began, ended = cuda_event(), cuda_event()
    began.record()
    F.linear(x, weight)
    ended.record()
    torch.cuda.synchronize(x.device)
    return float(began.elapsed_time(ended)) / 1e3
