"""A CPU rank's cores: chosen and pinned before torch starts its threads. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

from worldsize.config.schema import DeviceConfig


def is_for_cpu(device: DeviceConfig) -> bool:
    """Return whether ranks will compute on CPU cores, as far as can be told before torch is imported."""
    return device.kind == "cpu" or (device.kind == "auto" and not Path("/dev/nvidiactl").exists())


def cores_of(local_rank: int, threads: int, allowed: list[int]) -> list[int]:
    """Return the cores of one rank: its own while there are enough, shared in turn when there are not."""
    first = local_rank * threads
    return sorted({allowed[(first + i) % len(allowed)] for i in range(threads)})


def pin(local_rank: int, threads: int) -> list[int] | None:
    """Pin this process, and every thread it starts later, to its rank's cores; return them, or None off Linux.

    Must run before torch is imported, since its threads inherit the mask.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = cores_of(local_rank, threads, sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, cores)
    return cores
