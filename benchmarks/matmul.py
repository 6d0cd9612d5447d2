"""The best matrix-product rates of one core: what PyTorch's own `F.linear` reaches, and what any kernel we know does.

`python -m benchmarks.matmul CORE` prints them as one JSON line, FLOP/s.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

SHAPES = ((1024, 1024, 1024), (2048, 1536, 384), (2048, 384, 1536), (2048, 768, 3072))
BUDGET_S = 0.25


def best_rate(product: Callable[[Any, Any], Any], dtype: Any) -> float:
    """Return the best rate over SHAPES (rows, inputs, outputs); the fastest single call counts."""
    import torch

    best = 0.0
    for rows, inputs, outputs in SHAPES:
        x, weight = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
        product(x, weight)
        until_s = time.perf_counter() + BUDGET_S
        while time.perf_counter() < until_s:
            began_s = time.perf_counter()
            product(x, weight)
            best = max(best, 2 * rows * inputs * outputs / (time.perf_counter() - began_s))
    return best


def main() -> None:
    os.sched_setaffinity(0, {int(sys.argv[1])})
    import torch
    import torch.nn.functional as F

    from worldsize.models.linear import linear

    torch.set_num_threads(1)
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        torch_rate = best_rate(F.linear, dtype)
        rates[name] = {"f_linear": torch_rate, "best_known": max(torch_rate, best_rate(linear, dtype))}
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
