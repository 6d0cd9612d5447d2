"""Collectives as the dispatcher sees them, in the groups of a 2 × 2 layout, issued in every way that we use."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from tests.ranks import Ranks
from worldsize.measure.collectives import record
from worldsize.parallel.layout import Layout


def issue(rank: int, world_size: int) -> list[Any]:
    """All-reduce over dp, gather over fsdp, a DTensor's own all-reduce over dp×fsdp; return what was recorded."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Partial, distribute_tensor

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "fsdp"))
    flat = init_device_mesh("cpu", (4,))
    values = torch.ones(6)

    def step() -> None:
        dist.all_reduce(torch.ones(8), group=mesh.get_group("dp"))
        dist.all_reduce(torch.ones(2, dtype=torch.bfloat16), group=mesh.get_group("dp"))
        dist.all_gather([torch.empty(3), torch.empty(3)], torch.ones(3), group=mesh.get_group("fsdp"))
        distribute_tensor(values, flat, [Partial()], src_data_rank=None).full_tensor()

    return record(step, Layout(dp=2, fsdp=2))


def test_kinds_bytes_and_groups(four_ranks: Ranks) -> None:
    for counts in four_ranks.run(issue):
        assert [(c.kind, c.group, c.group_size, c.payload_bytes) for c in counts] == [
            ("all_gather", "fsdp", 2, 12),
            ("all_reduce", "dp", 2, 36),
            ("all_reduce", "dp×fsdp", 4, 24),
        ]
