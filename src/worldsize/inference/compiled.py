"""One decoding step as one compiled graph.

This file holds private names of torch (2.11-2.13): the compiler's settings in `torch._dynamo.config`;
tests/inference/test_compiled.py pins them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

T = TypeVar("T", bound=Callable[..., object])

MOST_SHAPES = 64
"""Graphs of one step: a batch size and a bucket of lengths each."""


def compiled(step: T) -> T:
    """Return a function as torch's compiler makes it, a graph for each shape that it is called with.

    Beyond MOST_SHAPES it raises; the compiler by itself would go on uncompiled without a word, after eight.
    """
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = 8 * MOST_SHAPES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    made: Any = torch.compile(step, dynamic=False, fullgraph=True)
    return cast(T, made)
