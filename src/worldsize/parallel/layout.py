"""Layout arithmetic: the only place where degrees are multiplied and batches divided. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from worldsize.config.schema import ParallelConfig, TrainConfig
from worldsize.errors import UserError

RANK_ORDER = ("pp", "dp", "fsdp", "tp")
"""The axes from the outermost to the innermost: neighbouring ranks, which share the fastest links, differ along tp."""
OWN_AXIS = {"fsdp": "fsdp", "tensor": "tp", "pipeline": "pp", "model_parallel": "pp"}
"""The axis that a strategy spreads over when its degree is unset; every other strategy's is dp."""


@dataclass(frozen=True)
class Layout:
    """The degrees of a run; their product is the world size."""

    dp: int = 1
    fsdp: int = 1
    tp: int = 1
    pp: int = 1

    @property
    def world_size(self) -> int:
        return self.dp * self.fsdp * self.tp * self.pp

    @property
    def num_data_ranks(self) -> int:
        """Groups of ranks that see different samples."""
        return self.dp * self.fsdp

    def coordinates(self, rank: int) -> dict[str, int]:
        """Return the rank's place along each axis."""
        place = {}
        for axis in reversed(RANK_ORDER):
            rank, place[axis] = divmod(rank, getattr(self, axis))
        return place

    def data_rank(self, rank: int) -> int:
        """Return which share of the global batch is the rank's; along tp and pp all have the same."""
        place = self.coordinates(rank)
        return place["dp"] * self.fsdp + place["fsdp"]

    def counts(self, rank: int) -> bool:
        """Return whether the rank speaks for its share of the batch: the first along tp, at the end of the pipeline.

        The other ranks with the same share report no samples, no tokens and no loss, so that sums over ranks hold.
        """
        place = self.coordinates(rank)
        return place["tp"] == 0 and place["pp"] == self.pp - 1

    def axes_of(self, ranks: Sequence[int]) -> str:
        """Return the name of a group of ranks: the axes along which they differ, such as 'dp' or 'dp×fsdp'."""
        places = [self.coordinates(rank) for rank in ranks]
        return "×".join(axis for axis in self.as_dict() if len({place[axis] for place in places}) > 1)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def layout_for(parallel: ParallelConfig, world_size: int) -> Layout:
    """Return the layout of `world_size` devices; the strategy's own axis, unset, takes what the other degrees leave.

    Raises UserError when the degrees do not multiply to the world size.
    """
    own_axis = OWN_AXIS.get(parallel.strategy, "dp")
    degrees = {axis: getattr(parallel, axis) for axis in Layout().as_dict()}
    if degrees[own_axis] is None or own_axis == "dp":
        others = math.prod(degree or 1 for axis, degree in degrees.items() if axis != own_axis)
        degrees[own_axis] = degrees[own_axis] or max(1, world_size // others)
    elif degrees["dp"] is None:
        degrees["dp"] = max(1, world_size // math.prod(degree or 1 for degree in degrees.values()))
    layout = Layout(**{axis: degree or 1 for axis, degree in degrees.items()})
    if layout.world_size != world_size:
        named = " × ".join(f"{axis}={degree}" for axis, degree in layout.as_dict().items())
        raise UserError(
            f"layout {named} needs {layout.world_size} devices, but the world size is {world_size}. "
            f"Use --nproc {layout.world_size}, or leave parallel.{own_axis} unset and let the other degrees divide "
            f"{world_size}."
        )
    return layout


def strategy_name(parallel: ParallelConfig, world_size: int) -> str:
    """Return the technique that 'auto' stands for: single on one device, ddp on more."""
    if parallel.strategy != "auto":
        return parallel.strategy
    return "single" if world_size == 1 else "ddp"


@dataclass(frozen=True)
class Batches:
    """How one optimizer step's samples are cut up: global_batch = data ranks × accumulation × micro_batch.

    Where the micro batch does not divide the per-device batch, the last one is smaller.
    """

    global_batch: int
    per_device_batch: int
    micro_batch: int
    accumulation: int


def batches_for(train: TrainConfig, layout: Layout) -> Batches:
    """Divide the global batch over the layout's data ranks and into micro batches.

    Raises UserError when it does not divide; the message names the nearest global batches that do.
    """
    ranks = layout.num_data_ranks
    cut = 1 if train.allow_ragged_micro_batch else train.micro_batch or 1
    unit = ranks * cut
    if train.global_batch % unit:
        below = train.global_batch // unit * unit
        nearest = f"{below} or {below + unit}" if below else f"{unit}"
        parts = f"{ranks} data ranks" + (f" × micro batches of {cut}" if cut > 1 else "")
        other = "; or change train.micro_batch, or set train.allow_ragged_micro_batch=true" if cut > 1 else ""
        raise UserError(
            f"train.global_batch={train.global_batch} does not divide into {parts}. Nearest that do: {nearest}{other}."
        )
    per_device = train.global_batch // ranks
    micro_batch = train.micro_batch or per_device
    return Batches(train.global_batch, per_device, micro_batch, math.ceil(per_device / micro_batch))
