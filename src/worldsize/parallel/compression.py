"""What DDP's buckets become on the wire: torch's communication hooks under our normalisation, and the bytes they send.

The hooks average over ranks, as DDP does by default, while our loss is already divided by the global count of target
tokens, so that gradients must be summed. Each bucket is therefore multiplied by the number of ranks first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from worldsize.config.schema import ParallelConfig
from worldsize.parallel.int4_gradients import int4_exchange, message_bytes
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import AllreduceOptions, GradBucket, ProcessGroup, Work  # type: ignore[attr-defined]

    from worldsize.models.cost import ModelDescription

POWERSGD_STARTS_AT = 2
"""Steps exchanged uncompressed: DDP settles its buckets in the first, and PowerSGD keeps a state for each bucket."""
POWERSGD_MIN_RATE = 2
"""A matrix is compressed when its factors have less than 1 / this many of its elements (torch's default)."""

KEEPS_WHAT_IT_LEFT_OUT = ("int4", "powersgd")
"""Ways that add what one exchange left out to the next step's gradient. It is not in checkpoints."""

Exchange = Callable[["GradBucket"], "torch.futures.Future[Tensor]"]


def collective(
    parallel: ParallelConfig, model: ModelDescription, num_ranks: int, element_bytes: int
) -> CollectiveCount:
    """Return what one rank hands to the exchange in a step (of PowerSGD: after its first steps).

    `element_bytes` is the size of an uncompressed gradient's element.
    """
    kind = "all_reduce"
    match parallel.gradient_compression:
        case "bf16" | "fp16":
            payload_bytes = model.parameter_bytes(2)
        case "int4":
            kind, payload_bytes = "all_gather", message_bytes(model)
        case "powersgd":
            shapes = model.parameter_shapes.values()
            payload_bytes = sum(powersgd_numel(shape, parallel.powersgd_rank) for shape in shapes) * element_bytes
        case _:
            payload_bytes = model.parameter_bytes(element_bytes)
    return CollectiveCount(kind=kind, group="dp", group_size=num_ranks, payload_bytes=payload_bytes)


def powersgd_numel(shape: tuple[int, ...], rank: int) -> int:
    """Return the elements exchanged for one gradient: its factors P (n, r) and Q (m, r), or all n·m uncompressed.

    Vogels et al. 2019 (arXiv:1905.13727), with torch's rule of when compressing is worth it. Vectors are n × 1.
    """
    num_rows, num_columns = shape[0], math.prod(shape[1:])
    factors = (num_rows + num_columns) * min(num_rows, num_columns, rank)
    return factors if factors * POWERSGD_MIN_RATE < num_rows * num_columns else num_rows * num_columns


def exchange_of(parallel: ParallelConfig, num_replicas: int, device: torch.device) -> Exchange:
    """Return what sums a bucket over the ranks, in the dtype or form that the config names."""
    match parallel.gradient_compression:
        case "none":
            return all_reduce_sum
        case "powersgd":
            return _powersgd(parallel.powersgd_rank, num_replicas, device)
        case "int4":
            return int4_exchange(num_replicas)
        case dtype:
            return _rounded(dtype, num_replicas)


def all_reduce_sum(bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Sum a bucket over the ranks as it is."""
    import torch.distributed as dist

    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return summed


def _rounded(dtype: str, num_replicas: int) -> Exchange:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    hook = {"bf16": default_hooks.bf16_compress_hook, "fp16": default_hooks.fp16_compress_hook}[dtype]

    def exchange(bucket: GradBucket) -> torch.futures.Future[Tensor]:
        bucket.buffer().mul_(num_replicas)
        return hook(None, bucket)  # type: ignore[arg-type]  # None is the default group

    return exchange


def _powersgd(rank: int, num_replicas: int, device: torch.device) -> Exchange:
    """PowerSGD with error feedback and warm start."""
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

    state = PowerSGDState(
        process_group=_blocking_group() if device.type == "cpu" else None,
        matrix_approximation_rank=rank,
        start_powerSGD_iter=POWERSGD_STARTS_AT,
        min_compression_rate=POWERSGD_MIN_RATE,
    )

    def exchange(bucket: GradBucket) -> torch.futures.Future[Tensor]:
        bucket.buffer().mul_(num_replicas)
        return powerSGD_hook(state, bucket)

    return exchange


def _blocking_group() -> ProcessGroup:
    """Return gloo's group with all-reduces that have ended when they return.

    The hook's second and third all-reduce are issued from callbacks of the one before. Gloo runs those on the two
    threads that its collectives need themselves, where two buckets would wait for each other for ever. A callback of
    what has ended runs at once, in the compute thread.
    """
    import torch.distributed as dist

    class BlockingGroup(dist.ProcessGroup):
        def __init__(self, group: ProcessGroup) -> None:
            super().__init__(group.rank(), group.size())  # type: ignore[call-arg]
            self.group = group

        def allreduce(self, tensors: list[Tensor], options: AllreduceOptions) -> Work:  # type: ignore[override]
            work = self.group.allreduce(tensors, options)
            work.wait()
            return work

    assert dist.group.WORLD is not None
    return BlockingGroup(dist.group.WORLD)
