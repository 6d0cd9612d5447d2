"""The ranks as a mesh, for the engines that take one: a named dimension for each axis that has more than one rank."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import RANK_ORDER


def mesh_of(context: RankContext) -> DeviceMesh:
    """Return the mesh of all ranks, 'pp' outermost, then 'dp', 'fsdp' and 'tp'; `mesh["tp"]` is this rank's tp group.

    A collective: called on every rank, once. A world of one rank has the dimension 'dp'.
    """
    degrees = {axis: degree for axis in RANK_ORDER if (degree := context.layout.as_dict()[axis]) > 1} or {"dp": 1}
    return init_device_mesh(context.device.type, tuple(degrees.values()), mesh_dim_names=tuple(degrees))
