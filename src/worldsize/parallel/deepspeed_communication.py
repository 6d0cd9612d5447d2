"""The collectives of one step under DeepSpeed, as its source (0.19) and real ranks have them. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from worldsize.models.cost import FP32_BYTES, ModelDescription
from worldsize.records import CollectiveCount

ALIGNMENT = 2
"""Stages 1 and 2 round a group's elements up to so many times the ranks."""
NORM_BYTES = {1: 4, 2: 4, 3: 8}
"""Of the squared norm that ranks add up for each parameter group: stage 3 keeps it in fp64."""
PERSISTS = 100_000
"""Elements up to which stage 3 keeps a tensor gathered between steps (DeepSpeed's own default)."""


def collectives(
    model: ModelDescription,
    num_ranks: int,
    *,
    stage: int,
    num_micro_batches: int,
    element_bytes: int,
    zero: Mapping[str, Any],
) -> list[CollectiveCount]:
    """Return what one step issues; `zero` is the section zero_optimization that DeepSpeed is given.

    Gradients are exchanged once. Stage 3 gathers a weight once a micro batch: with DeepSpeed's own distances of
    prefetch and reuse, models of up to some 500 million parameters stay gathered from forward to backward.
    """
    sizes = [math.prod(shape) for shape in model.parameter_shapes.values()]
    groups = _groups(model)
    found: dict[str, int] = {}
    if stage == 0:
        found["all_reduce"] = sum(sizes) * FP32_BYTES
    elif stage < 3:
        found["all_reduce"] = sum(sizes) * element_bytes + len(groups) * NORM_BYTES[stage]
        if element_bytes < FP32_BYTES:
            found["all_reduce"] += 1  # whether any rank's gradient overflowed
        unit = ALIGNMENT * num_ranks
        found["all_gather"] = sum(-(-sum(group) // unit) * ALIGNMENT for group in groups) * element_bytes
    else:
        shard = {size: -(-size // num_ranks) for size in sizes}
        threshold = int(zero.get("stage3_param_persistence_threshold", PERSISTS))
        gathered = sum(shard[size] * (1 if size <= threshold else num_micro_batches) for size in sizes)
        found["all_gather"] = gathered * element_bytes
        found["reduce_scatter"] = sum(shard[size] for size in sizes) * num_ranks * element_bytes
        found["all_reduce"] = len(groups) * NORM_BYTES[stage]
    return [
        CollectiveCount(kind=kind, group="dp", group_size=num_ranks, payload_bytes=payload_bytes)
        for kind, payload_bytes in sorted(found.items())
    ]


def _groups(model: ModelDescription) -> list[Sequence[int]]:
    """Return the elements of each tensor in the optimizer's two groups: those that decay, and vectors."""
    shapes = model.parameter_shapes.values()
    parts = [[math.prod(shape) for shape in shapes if (len(shape) >= 2) == decays] for decays in (True, False)]
    return [part for part in parts if part]
