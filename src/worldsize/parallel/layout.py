"""Layout arithmetic: the only place where degrees are multiplied and batches divided. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from worldsize.config.schema import ParallelConfig, TrainConfig
from worldsize.errors import UserError


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

    def axes_of(self, ranks: Sequence[int]) -> str:
        """Return the name of a group of ranks: the axes along which they differ, such as 'dp' or 'dp×fsdp'.

        Ranks are numbered row by row with dp outermost and pp innermost.
        """
        strides, names = self.world_size, []
        for axis, degree in self.as_dict().items():
            strides //= degree
            if len({rank // strides % degree for rank in ranks}) > 1:
                names.append(axis)
        return "×".join(names)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def layout_for(parallel: ParallelConfig, world_size: int) -> Layout:
    """Return the layout of `world_size` devices; an unset degree takes what the others leave: fsdp under strategy
    fsdp, dp under every other.

    Raises UserError when the degrees do not multiply to the world size.
    """
    dp, fsdp = parallel.dp, parallel.fsdp
    if parallel.strategy == "fsdp" and fsdp is None:
        dp = dp or 1
        fsdp = max(1, world_size // (dp * parallel.tp * parallel.pp))
    fsdp = fsdp or 1
    dp = dp or max(1, world_size // (fsdp * parallel.tp * parallel.pp))
    layout = Layout(dp=dp, fsdp=fsdp, tp=parallel.tp, pp=parallel.pp)
    if layout.world_size != world_size:
        unset = "fsdp" if parallel.strategy == "fsdp" else "dp"
        raise UserError(
            f"layout dp={dp} × fsdp={layout.fsdp} × tp={layout.tp} × pp={layout.pp} needs {layout.world_size} devices, "
            f"but the world size is {world_size}. Use --nproc {layout.world_size}, or leave "
            f"parallel.{unset} unset and let the other degrees divide {world_size}."
        )
    return layout


def strategy_name(parallel: ParallelConfig, world_size: int) -> str:
    """Return the technique that 'auto' stands for: single on one device, ddp on more."""
    if parallel.strategy != "auto":
        return parallel.strategy
    return "single" if world_size == 1 else "ddp"


@dataclass(frozen=True)
class Batches:
    """How one optimizer step's samples are cut up: global_batch = data ranks × accumulation × micro_batch."""

    global_batch: int
    per_device_batch: int
    micro_batch: int
    accumulation: int


def batches_for(train: TrainConfig, layout: Layout) -> Batches:
    """Divide the global batch over the layout's data ranks and into micro batches.

    Raises UserError when it does not divide; the message names the nearest global batches that do.
    """
    ranks = layout.num_data_ranks
    unit = ranks * (train.micro_batch or 1)
    if train.global_batch % unit:
        below = train.global_batch // unit * unit
        nearest = f"{below} or {below + unit}" if below else f"{unit}"
        parts = f"{ranks} data ranks" + (f" × micro batches of {train.micro_batch}" if train.micro_batch else "")
        other = "; or change train.micro_batch" if train.micro_batch else ""
        raise UserError(
            f"train.global_batch={train.global_batch} does not divide into {parts}. Nearest that do: {nearest}{other}."
        )
    per_device = train.global_batch // ranks
    micro_batch = train.micro_batch or per_device
    return Batches(train.global_batch, per_device, micro_batch, per_device // micro_batch)
