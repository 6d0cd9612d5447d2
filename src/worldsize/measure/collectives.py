"""The collectives of a step as the dispatcher sees them: kind, bytes and group, whichever library carries them out.

Where a layout has several groups, a trace of gloo's own events cannot say which group a collective ran in, nor that
gloo carries a reduce-scatter out as an all-reduce; the dispatcher can. It sees what this thread (and autograd for it)
issues, not what is issued from the callbacks of other threads.

This file holds two private names, `TorchDispatchMode`'s module and `_resolve_process_group` (torch 2.11-2.13);
tests/conformance pins both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from worldsize.parallel.layout import Layout
from worldsize.records import CollectiveCount

KIND_AND_PAYLOAD = {
    "c10d::allreduce_": ("all_reduce", 0),
    "c10d::allreduce_coalesced_": ("all_reduce", 0),
    "c10d::_allgather_base_": ("all_gather", 1),
    "c10d::allgather_": ("all_gather", 1),
    "c10d::allgather_into_tensor_coalesced_": ("all_gather", 1),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", 1),
    "c10d::reduce_scatter_": ("reduce_scatter", 1),
    "c10d::reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1),
    "c10d::broadcast_": ("broadcast", 0),
    "c10d::alltoall_base_": ("all_to_all", 1),
    "c10d::send": ("send", 0),
    "c10d::recv_": ("recv", 0),
    "_c10d_functional::all_reduce": ("all_reduce", 0),
    "_c10d_functional::all_reduce_": ("all_reduce", 0),
    "_c10d_functional::all_gather_into_tensor": ("all_gather", 0),
    "_c10d_functional::reduce_scatter_tensor": ("reduce_scatter", 0),
    "_c10d_functional::all_to_all_single": ("all_to_all", 0),
    "_c10d_functional::broadcast": ("broadcast", 0),
}
"""Operator → its kind, and which of its arguments are the tensors that this rank hands in."""


class CollectiveRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, adds up the collectives that this rank issues."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layout = layout
        self._payload_bytes: dict[tuple[str, tuple[int, ...]], int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # it comes again as operators on plain tensors, collectives among them
        found = KIND_AND_PAYLOAD.get(func.name().split(".")[0])
        if found is not None:
            kind, index = found
            key = (kind, tuple(_ranks_of(args)))
            self._payload_bytes[key] = self._payload_bytes.get(key, 0) + sum(
                tensor.numel() * tensor.element_size() for tensor in _tensors(args[index])
            )
        return func(*args, **(kwargs or {}))

    def counts(self) -> list[CollectiveCount]:
        """Return what was issued, by kind and group."""
        counts = [
            CollectiveCount(
                kind=kind, group=self._layout.axes_of(ranks), group_size=len(ranks), payload_bytes=payload_bytes
            )
            for (kind, ranks), payload_bytes in self._payload_bytes.items()
        ]
        return sorted(counts, key=lambda count: (count.kind, count.group))


def _ranks_of(args: tuple[Any, ...]) -> list[int]:
    """Return the ranks of the group among a collective's arguments: a process group, or the last string, its name."""
    for arg in args:
        if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type()):
            return dist.get_process_group_ranks(dist.ProcessGroup.unbox(arg))
    name = [arg for arg in args if isinstance(arg, str)][-1]
    return dist.get_process_group_ranks(_resolve_process_group(name))  # type: ignore[arg-type]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def record(step: Callable[[], None], layout: Layout, *, period: int = 1) -> list[CollectiveCount]:
    """Run a step to settle, then `period` more; return what one of these issued on this rank. Called on every rank.

    `period` is the steps from one exchange to the next: bytes are their mean, rounded down.
    """
    step()
    recorder = CollectiveRecorder(layout)
    with recorder:
        for _ in range(period):
            step()
    return [count.model_copy(update={"payload_bytes": count.payload_bytes // period}) for count in recorder.counts()]
