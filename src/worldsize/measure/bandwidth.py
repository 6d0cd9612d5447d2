"""How fast this process's threads read memory: the limit of decoding, which reads every weight once a token."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from worldsize.inference.arena import allocate

BUFFER_BYTES = 256 * 2**20
"""Far larger than any cache that one core fills."""
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SMAPS = Path("/proc/self/smaps_rollup")


class ReadBandwidth:
    """Measures again and again; the best reading counts, since whatever else the machine does only slows it down."""

    def __init__(self, num_bytes: int = BUFFER_BYTES) -> None:
        """The buffer lies where packed weights lie: in huge pages, where the kernel gives them."""
        self.num_bytes = num_bytes
        self.best_bytes_per_s = 0.0
        self._buffer = allocate(num_bytes)
        self._buffer.fill_(1)

    @torch.inference_mode()
    def measure(self, num_reads: int = 3) -> float:
        """Read the buffer with each of a few reductions, `num_reads` times; return the best so far, bytes/s.

        No single one of torch's reductions is the fastest on every processor.
        """
        for read in _READS:
            for _ in range(num_reads):
                began_s = time.perf_counter()
                read(self._buffer)
                self.best_bytes_per_s = max(self.best_bytes_per_s, self.num_bytes / (time.perf_counter() - began_s))
        return self.best_bytes_per_s


def _sum(buffer: Tensor) -> Tensor:
    return buffer.view(torch.float32).sum()


def _dot(buffer: Tensor) -> Tensor:
    numbers = buffer.view(torch.float32)
    return torch.dot(numbers, numbers)  # one stream: both operands are the same bytes


def _largest(buffer: Tensor) -> Tensor:
    return buffer.view(torch.int64).amax()


_READS: tuple[Callable[[Tensor], Tensor], ...] = (_sum, _dot, _largest)


def huge_pages() -> str:
    """Return the kernel's setting for huge pages: 'always', 'madvise' (who asks gets them), 'never', or 'not known'."""
    try:
        text = SETTING.read_text()
    except OSError:
        return "not known"
    return text[text.find("[") + 1 : text.find("]")] if "[" in text else "not known"


def bytes_in_huge_pages() -> int | None:
    """Return how much of this process's memory lies in huge pages, or None where the system does not say."""
    try:
        lines = SMAPS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("AnonHugePages:")]
    return int(found[0][1]) * 1024 if found else None
