"""When fully_shard communicates, for the clock: it issues its collectives itself, from hooks of the model.

On a CPU each of them blocks the compute thread until it has ended, so the wall time in them is exposed communication.
On CUDA they run on streams of their own, and the compute stream waits for them: for a unit's weights before its forward
and before its backward, and at the end of backward for the last gradients. Those waits are marked on that stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

    from worldsize.measure.clock import StepClock

# torch 2.13 renamed both.
all_gather_single: Callable[..., dist.Work | None] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
reduce_scatter_single: Callable[..., dist.Work | None] = getattr(
    dist, "reduce_scatter_single", dist.reduce_scatter_tensor
)


class BlockingCollectives:
    """On a CPU: marks a step's collectives on its clock; outside a step there is none."""

    def __init__(self) -> None:
        self.clock: StepClock | None = None

    def attach(self, unit: FSDPModule) -> None:
        """Let one unit's collectives go through here. Called once the unit is sharded."""
        unit.set_custom_all_gather(_AllGather(self._exposed))  # type: ignore[arg-type]
        unit.set_custom_reduce_scatter(_ReduceScatter(self._exposed))  # type: ignore[arg-type]
        # Called after the reduce-scatter and, where there is a dp axis, after the all-reduce that follows it.
        unit.set_all_reduce_hook(lambda gradient: self._mark("exposed_communication_s"))

    @contextmanager
    def _exposed(self) -> Iterator[None]:
        """Book the time until here as compute, and what happens within as exposed communication."""
        self._mark("compute_s")
        yield
        self._mark("exposed_communication_s")

    def _mark(self, phase: str) -> None:
        if self.clock is not None:
            self.clock.mark(phase)


class StreamWaits:
    """On CUDA: marks a step's waits for other streams on its clock; outside a step there is none."""

    def __init__(self) -> None:
        self.clock: StepClock | None = None

    def attach(self, unit: FSDPModule) -> None:
        """Mark one unit's waits for weights and for gradients. Called once the unit is sharded."""
        assert isinstance(unit, nn.Module)
        self.attach_to_weights(unit)
        unit.set_custom_reduce_scatter(_ReduceScatter(self._gradients_are_computed))  # type: ignore[arg-type]

    def attach_to_weights(self, unit: nn.Module) -> None:
        """Mark the compute stream before and after the unit's own hooks, in which it waits for its weights.

        A hook that is registered later runs later or, prepended, first.
        """
        unit.register_forward_pre_hook(lambda *_: self._mark("compute_s"), prepend=True)
        unit.register_forward_pre_hook(lambda *_: self._mark("exposed_communication_s"))
        unit.register_forward_hook(lambda *call: self._mark_backward("compute_s", call[-1]), prepend=True)
        unit.register_forward_hook(lambda *call: self._mark_backward("exposed_communication_s", call[-1]))

    @contextmanager
    def _gradients_are_computed(self) -> Iterator[None]:
        """Tell the clock that all up to here is compute, on the compute stream: another one is current here."""
        if self.clock is not None:
            with torch.cuda.stream(torch.cuda.default_stream()):
                self.clock.communication_started()
        yield

    def _mark(self, phase: str) -> None:
        if self.clock is not None:
            self.clock.mark(phase)

    def _mark_backward(self, phase: str, output: Tensor) -> None:
        """Mark when the gradient of a unit's output has been computed: its backward is next."""
        if self.clock is not None and output.requires_grad:
            output.register_hook(lambda gradient: self._mark(phase))  # type: ignore[no-untyped-call]


def fsdp_clock_for(device: torch.device) -> BlockingCollectives | StreamWaits:
    """Return the way of marking that is right for the rank's device."""
    return StreamWaits() if device.type == "cuda" else BlockingCollectives()


class _Collective:
    """One of fully_shard's own collectives, with something around it."""

    def __init__(self, around: Callable[[], AbstractContextManager[None]]) -> None:
        self._around = around

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)


class _AllGather(_Collective):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        with self._around():
            return all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)


class _ReduceScatter(_Collective):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> dist.Work | None:
        with self._around():
            return reduce_scatter_single(output_tensor, input_tensor, op=op, group=group, async_op=async_op)
