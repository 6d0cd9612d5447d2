"""Keeps freed memory in the process, so that each step does not ask the kernel for the same pages again.

A training step allocates and frees the same large tensors over and over. By default glibc maps every block over a
threshold anew and gives it back when freed; the kernel then zeroes each page at its first touch. Torch-free.
"""

from __future__ import annotations

from worldsize.measure.c_library import c_function

M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
NEVER = -1  # read by glibc as the largest size_t
TOP_PAD_BYTES = 64 * 2**20


def tune_allocator() -> bool:
    """Let glibc serve blocks of any size from a heap that only grows; return whether it now does.

    Call early, in each CPU rank. What is freed is reused, not returned: the process keeps its peak memory to its end.
    Does nothing off Linux or with another C library.
    """
    mallopt = c_function("mallopt")
    if mallopt is None:
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD_BYTES))
    accepted = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(accepted)
