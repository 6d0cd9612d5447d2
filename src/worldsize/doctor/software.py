"""Versions and backends. Torch is imported inside, and only here and in hardware.py."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import worldsize
from worldsize.doctor.finding import Finding, fail, ok, warn

PYTHON = ((3, 11), (3, 12))
TORCH = ((2, 11), (2, 13))
"""First and last version that the tests run with."""


def versions() -> list[Finding]:
    """Python, torch and worldsize against what is supported."""
    python = judged("python", platform.python_version(), PYTHON)
    try:
        torch = judged("torch", version("torch"), TORCH)
    except PackageNotFoundError:
        torch = fail("torch", "torch is not installed: results can be read here, nothing can be trained.",
                     "pip install torch")  # fmt: skip
    return [ok("worldsize", f"worldsize {worldsize.__version__} on {platform.platform()}"), python, torch]


def judged(name: str, found: str, supported: tuple[tuple[int, int], tuple[int, int]]) -> Finding:
    """Judge a version by the range of those that are tested."""
    number = tuple(int(part) for part in found.split("+")[0].split(".")[:2])
    first, last = supported
    tested = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
    if number < first:
        return fail(name, f"{name} {found} is older than what worldsize runs with ({tested}).",
                    f"Install {name} {tested}.")  # fmt: skip
    if number > last:
        return warn(name, f"{name} {found} is newer than what was tested ({tested}).",
                    f"If something breaks, install {name} {tested}.")  # fmt: skip
    return ok(name, f"{name} {found} (tested: {tested})")


def backends() -> list[Finding]:
    """The libraries that carry collectives: gloo for CPUs, NCCL for NVIDIA GPUs."""
    try:
        import torch
        import torch.distributed as dist
    except (ImportError, OSError) as error:
        return [fail("backends", f"torch cannot be imported: {error}.", f"Reinstall torch in {sys.prefix}.")]
    if not dist.is_available():
        return [fail("backends", "this torch was built without torch.distributed: one device only.",
                     "Install torch from its own wheels.")]  # fmt: skip
    found = [ok("gloo", "gloo is available: collectives between CPU ranks")]
    if not dist.is_gloo_available():
        found = [fail("gloo", "this torch has no gloo: CPU ranks cannot exchange.", "Install torch from its wheels.")]
    if not torch.cuda.is_available():
        return found
    if not dist.is_nccl_available():
        return [*found, fail("nccl", "GPUs are here, but this torch has no NCCL: they cannot exchange.",
                             "Install a CUDA wheel of torch for Linux.")]  # fmt: skip
    number = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return [*found, ok("nccl", f"NCCL {number} is available: collectives between GPUs")]
