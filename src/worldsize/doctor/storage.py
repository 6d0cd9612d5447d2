"""Shared memory and the file system that runs are written to. Torch-free."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from pathlib import Path

from worldsize.doctor.finding import Finding, fail, none, ok, warn

LEAST_SHM_BYTES = 2**30
LEAST_FREE_BYTES = 5 * 2**30
LEAST_BYTES_PER_S = 50e6
PROBE_BYTES = 32 * 2**20


def shared_memory(path: Path = Path("/dev/shm")) -> list[Finding]:
    """Room in /dev/shm, through which ranks and NCCL of one host exchange."""
    if not path.is_dir():
        return [none("shared memory", f"{path} is not here")]
    stat = os.statvfs(path)
    total, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    found = f"{path} has {total / 2**30:.1f} GiB, {free / 2**30:.1f} free"
    if free < LEAST_SHM_BYTES:
        return [warn("shared memory", f"{found}: NCCL and data workers may fail with a bus error.",
                     "docker run --shm-size=8g (or --ipc=host); else: mount -o remount,size=8G /dev/shm")]  # fmt: skip
    return [ok("shared memory", found)]


def file_system(out: Path) -> list[Finding]:
    """Room, locks and speed where runs will be written: a small file is written, flushed to the disk, and removed."""
    folder = existing(out)
    kind = kind_of(folder)
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    try:
        bytes_per_s = write_speed(folder)
    except OSError as error:
        return [fail("file system", f"{folder} cannot be written: {error.strerror or error}.", "Give another --out.")]
    speed = f"{bytes_per_s / 1e6:,.0f} MB/s written and flushed"
    found = f"{folder} ({kind or 'unknown kind'}): {speed}, {free / 2**30:,.0f} GiB free"
    if free < LEAST_FREE_BYTES:
        return [warn("file system", f"{found}: little room for checkpoints.", "Free some, or give another --out.")]
    if bytes_per_s < LEAST_BYTES_PER_S:
        return [warn("file system", f"{found}: checkpoints will be slow.", "Give an --out on a local disk.")]
    return [ok("file system", found)]


def existing(path: Path) -> Path:
    """Return the folder itself, or the nearest above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def kind_of(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """Return the kind of file system a folder is on, by the longest mount point above it, or None."""
    try:
        rows = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return None
    above = [(row[1], row[2]) for row in rows if folder.is_relative_to(row[1])]
    return max(above, key=lambda mount: len(mount[0]))[1] if above else None


def write_speed(folder: Path) -> float:
    """Return bytes per second of writing a small file until it is on the disk. Raises OSError, also without locks."""
    block = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".worldsize-doctor-") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        began_s = time.perf_counter()
        for _ in range(PROBE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return PROBE_BYTES / (time.perf_counter() - began_s)
