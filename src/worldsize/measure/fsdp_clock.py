"""When fully_shard communicates, for the clock: it issues its collectives itself, from hooks of the model.

On a CPU each of them blocks the compute thread until it has ended, so the wall time in them is exposed communication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

    from worldsize.measure.clock import StepClock


# torch 2.13 renamed both.
_all_gather: Callable[..., dist.Work | None] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter: Callable[..., dist.Work | None] = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


class BlockingCollectives:
    """Marks a step's blocking collectives on its clock; outside a step there is none."""

    def __init__(self) -> None:
        self.clock: StepClock | None = None

    def attach(self, unit: FSDPModule, *, hybrid: bool) -> None:
        """Let one unit's collectives go through here."""
        unit.set_custom_all_gather(AllGather(self))  # type: ignore[arg-type]
        unit.set_custom_reduce_scatter(ReduceScatter(self))  # type: ignore[arg-type]
        if hybrid:
            unit.set_all_reduce_hook(self.all_reduced)

    @contextmanager
    def exposed(self) -> Iterator[None]:
        """Book the time until here as compute, and the block's as exposed communication."""
        if self.clock is not None:
            self.clock.mark("compute_s")
        yield
        if self.clock is not None:
            self.clock.mark("exposed_communication_s")

    def all_reduced(self, gradient: Tensor) -> None:
        """Book what followed a unit's reduce-scatter, its all-reduce over dp, which has just ended."""
        if self.clock is not None:
            self.clock.mark("exposed_communication_s")


class _Collective:
    def __init__(self, blocking: BlockingCollectives) -> None:
        self._blocking = blocking

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)


class AllGather(_Collective):
    """fully_shard's own all-gather, marked."""

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        with self._blocking.exposed():
            return _all_gather(output_tensor, input_tensor, group=group, async_op=async_op)


class ReduceScatter(_Collective):
    """fully_shard's own reduce-scatter, marked."""

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> dist.Work | None:
        with self._blocking.exposed():
            return _reduce_scatter(output_tensor, input_tensor, op=op, group=group, async_op=async_op)
