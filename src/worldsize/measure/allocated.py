"""How many bytes training has allocated at one time: what it needs, whatever a process keeps of what it has freed.

CUDA: torch's own count. CPU: the C library's count of bytes in use (glibc's mallinfo2, from 2.33 on), which knows of
tensors, gradient buckets and gloo's copies alike. It keeps no peak, so a thread reads it again and again beside a step
that nobody times.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from worldsize.measure.c_library import c_function

INTERVAL_S = 0.0005
UNKNOWN = "the C library counts no bytes in use (needs Linux with glibc 2.33 or later)"


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


class Allocated:
    """Counts from the moment at which it is made: make one before the model."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._in_use = _in_use_on(device)
        self._before = self._in_use() if self._in_use else 0

    def most_in(self, run_steps: Callable[[], None]) -> int | None:
        """Run steps; return the most bytes allocated at one time, or None where nothing counts them. Synchronises."""
        if self._in_use is None:
            return None
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            run_steps()
            torch.cuda.synchronize(self._device)
            return torch.cuda.max_memory_allocated(self._device) - self._before
        with _watched(self._in_use) as seen:
            run_steps()
        return max(seen) - self._before


def _in_use_on(device: torch.device) -> Callable[[], int] | None:
    """Return what reads the bytes in use, or None where nothing can."""
    if device.type == "cuda":
        return lambda: torch.cuda.memory_allocated(device)
    mallinfo = c_function("mallinfo2")
    if mallinfo is None:
        return None
    mallinfo.restype = _MallocInfo

    def in_use() -> int:
        info = mallinfo()
        return int(info.uordblks + info.hblkhd)

    return in_use


@contextmanager
def _watched(read: Callable[[], int]) -> Iterator[list[int]]:
    """Yield a list to which a thread adds readings until the block ends."""
    seen = [read()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(INTERVAL_S):
            seen.append(read())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
