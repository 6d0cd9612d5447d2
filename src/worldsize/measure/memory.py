"""Memory of one rank, bytes."""

from __future__ import annotations

import resource

import psutil
import torch


def peak_bytes(device: torch.device) -> int:
    """Return the most memory this rank has held: allocated by torch on CUDA, resident size of the process on CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def used_bytes(device: torch.device) -> int:
    """Return the memory that this rank holds now, by the same rule."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def forget_peak(device: torch.device) -> None:
    """Start the peak anew on CUDA. A process's peak resident size cannot be taken back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
