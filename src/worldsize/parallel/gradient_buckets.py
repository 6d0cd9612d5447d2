"""Sums of gradients over replicas in flat buckets, from the last parameters to the first, while backward still runs.

DDP's way (Li et al. 2020, arXiv:2006.15704) for parameters that DDP does not take: DTensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@dataclass
class _Bucket:
    """Parameters whose gradients are summed in one flat tensor."""

    parameters: list[nn.Parameter] = field(default_factory=list)
    num_ready: int = 0
    flat: Tensor | None = None
    work: dist.Work | None = None


class GradientBuckets:
    """While `armed`, a backward starts the sum of each bucket over `group` once its last gradient is there."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        group: dist.ProcessGroup,
        bucket_bytes: float,
        on_start: Callable[[], None],
    ) -> None:
        self.armed = False
        self._group = group
        self._on_start = on_start
        self._buckets: list[_Bucket] = []
        size = bucket_bytes
        for parameter in reversed(list(parameters)):
            own_bytes = own_part(parameter).numel() * parameter.element_size()
            if size + own_bytes > bucket_bytes:
                self._buckets.append(_Bucket())
                size = 0
            size += own_bytes
            bucket = self._buckets[-1]
            bucket.parameters.append(parameter)
            hook = functools.partial(self._is_ready, bucket)
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def _is_ready(self, bucket: _Bucket, _: Tensor) -> None:
        if not self.armed:
            return
        bucket.num_ready += 1
        if bucket.num_ready == len(bucket.parameters):
            bucket.flat = torch.cat([gradient.flatten() for gradient in _gradients(bucket)])
            self._on_start()
            bucket.work = dist.all_reduce(bucket.flat, group=self._group, async_op=True)

    def finish(self) -> None:
        """Wait for the sums and put them where the gradients were."""
        for bucket in self._buckets:
            assert bucket.work is not None
            assert bucket.flat is not None
            bucket.work.wait()
            scatter_back(bucket.flat, _gradients(bucket))
            bucket.num_ready, bucket.flat, bucket.work = 0, None, None
        self.armed = False


def _gradients(bucket: _Bucket) -> list[Tensor]:
    return [own_part(parameter.grad) for parameter in bucket.parameters if parameter.grad is not None]


def own_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor, sharing its memory."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def scatter_back(flat: Tensor, tensors: list[Tensor]) -> None:
    """Copy a flat tensor's parts over `tensors`, in their order."""
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
