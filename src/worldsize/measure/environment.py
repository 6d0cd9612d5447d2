"""What a run ran on. What cannot be found out is None, never a guess."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import socket
from pathlib import Path

import psutil

import worldsize
from worldsize.records import EmulatedNetwork, Environment


def hostname() -> str:
    return socket.gethostname()


@functools.cache
def code_version() -> str:
    """Return a digest of worldsize's own source files, so that two versions of the code are told apart."""
    root = Path(worldsize.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cpu_name() -> str | None:
    """Return the processor's model name, or None."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def describe(
    *,
    torch_version: str | None,
    device_kind: str,
    device_names: list[str],
    backend: str | None,
    threads_per_rank: int,
    pinned_cores: list[list[int]] | None,
    num_hosts: int,
    emulated: EmulatedNetwork | None = None,
) -> Environment:
    """Return the record of this host, with what the ranks told of their devices."""
    return Environment(
        hostname=hostname(),
        platform=platform.platform(),
        python=platform.python_version(),
        torch=torch_version,
        worldsize=worldsize.__version__,
        code_version=code_version(),
        cpu_name=cpu_name(),
        num_cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        device_kind=device_kind,
        device_names=device_names,
        backend=backend,
        threads_per_rank=threads_per_rank,
        pinned_cores=pinned_cores,
        num_hosts=num_hosts,
        emulated=emulated,
    )
