"""Gradients exchanged as 4-bit integers: an eighth of fp32's bytes between two ranks, for links that are too slow.

Every block of 64 elements of a tensor becomes integers of -7 to 7 and one bf16 scale. What rounding leaves out is added
to the same rank's next gradient (error feedback: Seide et al. 2014, 1-bit stochastic gradient descent), so it comes
late and is not lost. Integers with different scales cannot be summed on the way: each rank gathers all of them and sums
them itself, in the order of ranks, so that all replicas get the same bits. A rank therefore receives n - 1 messages,
where an all-reduce brings it 2 (n - 1) / n wholes: the gain shrinks with n, and is gone at about 16 ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import GradBucket  # type: ignore[attr-defined]

    from worldsize.models.cost import ModelDescription

BLOCK = 64
BYTES_PER_BLOCK = BLOCK // 2 + 2
LARGEST = 7
ROWS_AT_A_TIME = 4096
"""A MiB of fp32, which stays in a core's cache through the passes over it: four times as fast as all at once."""


def message_bytes(model: ModelDescription) -> int:
    """Return the bytes that one rank hands to the gather in a step; a tensor's last block is filled up with zeros."""
    return sum(num_blocks(math.prod(shape)) for shape in model.parameter_shapes.values()) * BYTES_PER_BLOCK


def num_blocks(numel: int) -> int:
    """Return the blocks of a tensor of so many elements: the last one may be begun only."""
    return math.ceil(numel / BLOCK)


def int4_exchange(num_replicas: int) -> Callable[[GradBucket], torch.futures.Future[Tensor]]:
    """Return what sums a bucket over the ranks of the default group."""
    from worldsize.measure.fsdp_clock import all_gather_single

    left_out: dict[int, tuple[list[int], Tensor]] = {}  # by bucket: whose it is, and what

    def exchange(bucket: GradBucket) -> torch.futures.Future[Tensor]:
        gradients = bucket.gradients()
        blocks = to_blocks(gradients)
        whose = [parameter.data_ptr() for parameter in bucket.parameters()]
        of_whom, before = left_out.get(bucket.index(), (None, None))
        if before is not None and of_whom == whose:  # DDP settles which parameters a bucket holds after the first step
            blocks += before
        message = quantize(blocks)
        left_out[bucket.index()] = whose, blocks.sub_(dequantize(message))
        gathered = message.new_empty(num_replicas * len(message), BYTES_PER_BLOCK)
        work = all_gather_single(gathered, message, async_op=True)
        assert work is not None

        def add_up(_: torch.futures.Future[Tensor]) -> Tensor:
            first, *others = gathered.chunk(num_replicas)
            total = dequantize(first)
            for message in others:
                total += dequantize(message)
            from_blocks(total, gradients)
            return bucket.buffer()

        summed: torch.futures.Future[Tensor] = work.get_future().then(add_up)
        return summed

    return exchange


def to_blocks(tensors: list[Tensor]) -> Tensor:
    """Return the tensors' elements in rows of 64, each tensor from a row's start, its last row filled with zeros."""
    import torch
    from torch.nn.functional import pad

    return torch.cat([pad(tensor.flatten(), (0, -tensor.numel() % BLOCK)) for tensor in tensors]).view(-1, BLOCK)


def from_blocks(blocks: Tensor, tensors: list[Tensor]) -> None:
    """Write the rows that `to_blocks` made back into tensors of the same shapes."""
    import torch

    parts = torch.split(blocks.flatten(), [num_blocks(tensor.numel()) * BLOCK for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part[: tensor.numel()].view_as(tensor))


def quantize(blocks: Tensor) -> Tensor:
    """Return (N, 64) floats as (N, 34) bytes: two integers to a byte, then the block's scale in bf16.

    A scale that is not finite stays so, and so do the sums made of it: nothing hides an overflow.
    """
    import torch

    return torch.cat([_quantize(rows) for rows in torch.split(blocks, ROWS_AT_A_TIME)])


def _quantize(blocks: Tensor) -> Tensor:
    import torch

    scales = (blocks.abs().amax(dim=1, keepdim=True) / LARGEST).to(torch.bfloat16)
    integers = (blocks / scales.float().clamp_min(torch.finfo(torch.float32).tiny)).round_().clamp_(-LARGEST, LARGEST)
    codes = integers.nan_to_num_().add_(LARGEST + 1).to(torch.uint8)
    first, second = codes.chunk(2, dim=1)
    return torch.cat([first | (second << 4), scales.view(torch.uint8)], dim=1)


def dequantize(message: Tensor) -> Tensor:
    """Return the (N, 64) floats of (N, 34) bytes."""
    import torch

    return torch.cat([_dequantize(rows) for rows in torch.split(message, ROWS_AT_A_TIME)])


def _dequantize(message: Tensor) -> Tensor:
    import torch

    packed, scales = message[:, : BLOCK // 2], message[:, BLOCK // 2 :]
    codes = torch.cat([packed & 15, packed >> 4], dim=1).float().sub_(LARGEST + 1)
    return codes.mul_(scales.contiguous().view(torch.bfloat16).float())
