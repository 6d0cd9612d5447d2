"""The ranks as a mesh, for the engines that take one: a named dimension for each axis that has more than one rank."""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import RANK_ORDER


def mesh_of(context: RankContext) -> DeviceMesh:
    """Return the mesh of all ranks, 'pp' outermost, then 'dp', 'fsdp' and 'tp'; `mesh["tp"]` is this rank's tp group.

    A collective: called on every rank, once. A world of one rank has the dimension 'dp'.
    """
    degrees = {axis: degree for axis in RANK_ORDER if (degree := context.layout.as_dict()[axis]) > 1} or {"dp": 1}
    return init_device_mesh(context.device.type, tuple(degrees.values()), mesh_dim_names=tuple(degrees))


def ends_of_pipelines(context: RankContext) -> dist.ProcessGroup | None:
    """Return the group of this rank's pipeline's first and last rank; None where this rank is neither.

    A collective: called on every rank, once.
    """
    layout = context.layout
    pipelines: dict[tuple[int, ...], list[int]] = {}
    for rank in range(context.world_size):
        place = layout.coordinates(rank)
        pipelines.setdefault(tuple(place[axis] for axis in RANK_ORDER if axis != "pp"), []).append(rank)
    mine = None
    for ranks in pipelines.values():
        ends = [ranks[0], ranks[-1]]
        group = dist.new_group(ends)
        if context.rank in ends:
            mine = group
    return mine
