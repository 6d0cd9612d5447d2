"""Weights in one mapping of huge pages.

Decoding reads every weight once a token, so its speed is that of memory; with 4 KiB pages the processor spends much of
it on address translation. One mapping that asks for huge pages was measured to read twice as fast.
"""

from __future__ import annotations

import contextlib
import mmap

import torch
from torch import Tensor, nn

HUGE_PAGE_BYTES = 2 * 2**20
ALIGNMENT_BYTES = 64
PRIVATE = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
"""Python's mappings are shared unless told otherwise, and Linux gives shared memory no huge pages by default."""


def into_arena(module: nn.Module) -> int:
    """Move a module's buffers on the CPU into one mapping of huge pages; return its size in bytes.

    Each tensor begins on a cache line. Without huge pages (not Linux, or switched off) the mapping is an ordinary one.
    """
    buffers = {id(tensor): tensor for tensor in module.buffers() if tensor.device.type == "cpu"}
    size_bytes = sum(_rounded(tensor.nbytes, ALIGNMENT_BYTES) for tensor in buffers.values())
    if size_bytes == 0:
        return 0
    arena = allocate(size_bytes)
    offset = 0
    with torch.no_grad():
        for tensor in buffers.values():
            place = arena[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            place.copy_(tensor)
            tensor.set_(place)  # type: ignore[call-overload]
            offset += _rounded(tensor.nbytes, ALIGNMENT_BYTES)
    return size_bytes


def allocate(size_bytes: int) -> Tensor:
    """Return uint8 zeros that begin on a huge page's border; they live as long as a tensor looks at them."""
    num_bytes = _rounded(size_bytes, HUGE_PAGE_BYTES) + HUGE_PAGE_BYTES
    mapping = mmap.mmap(-1, num_bytes, flags=PRIVATE) if PRIVATE else mmap.mmap(-1, num_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(mapping, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE_BYTES
    return whole[start : start + size_bytes]


def _rounded(size_bytes: int, to_bytes: int) -> int:
    return -(-size_bytes // to_bytes) * to_bytes
