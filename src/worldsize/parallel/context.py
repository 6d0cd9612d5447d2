"""One rank's place in the run: passed to everything that needs it, never a module-level global."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worldsize.parallel.layout import Layout

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RankContext:
    """Who this process is, and on what device it computes."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    layout: Layout

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes the run's shared files and talks to people."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which share of the global batch is this rank's."""
        return self.layout.data_rank(self.rank)

    @property
    def counts(self) -> bool:
        """Whether this rank speaks for its share of the batch; others report no samples, tokens or loss."""
        return self.layout.counts(self.rank)

    def barrier(self) -> None:
        """Wait for all ranks. Called on every rank, never inside a timed step."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's picklable `value`, in rank order, on every rank. Synchronises."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered
