"""Devices, cores, clocks, and the way that NCCL will take between GPUs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from worldsize.doctor.finding import Finding, fail, none, ok, output_of, warn
from worldsize.measure.environment import cpu_name

BUSY = 0.25
"""Load by other programs, per core, above which timings are doubtful."""
SLOWS_NCCL = {
    "NCCL_P2P_DISABLE": "GPUs of one host then talk through its memory",
    "NCCL_SHM_DISABLE": "GPUs of one host then talk over the network where they have no peer access",
    "NCCL_IB_DISABLE": "hosts then talk over TCP even where there is InfiniBand",
}
LINKS = {
    "NV": "NVLink",
    "PIX": "one PCIe switch",
    "PXB": "several PCIe switches",
    "PHB": "the CPU's PCIe root",
    "NODE": "PCIe across one CPU socket",
    "SYS": "the link between CPU sockets",
}
"""What `nvidia-smi topo -m` says of a pair of GPUs, fastest first."""


def devices() -> list[Finding]:
    """GPUs as torch sees them, or the CPU."""
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in found)
        return [ok("devices", f"{len(found)} GPU{'s' * (len(found) > 1)}: {names}")]
    present = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    if present:
        return [
            fail(
                "devices",
                f"/dev has {', '.join(present)}, but torch {torch.__version__} sees no CUDA device.",
                "Compare `nvidia-smi` (driver) with torch.version.cuda; install a CUDA wheel of torch that suits the "
                "driver, and look at CUDA_VISIBLE_DEVICES.",
            )
        ]
    return [ok("devices", f"no GPU; CPU {cpu_name() or 'of unknown name'}: a device is one core")]


def cores() -> list[Finding]:
    """Cores that this process may use, against those that the machine has, and what else uses them."""
    allowed, present = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    quota = cpu_quota(Path("/sys/fs/cgroup"))
    load = os.getloadavg()[0]
    found = f"{allowed} of {present} cores may be used, load {load:.1f}"
    if quota is not None and quota < allowed:
        return [warn("cores", f"{found}; a quota allows {quota:g} cores' time: pinned ranks will be throttled.",
                     f"Give the container {allowed} CPUs, or use at most {max(1, int(quota))} ranks.")]  # fmt: skip
    if load > BUSY * allowed:
        return [warn("cores", f"{found}: other programs are at work, so timings will be noisy.",
                     "Stop them, or pin them elsewhere, before measuring.")]  # fmt: skip
    return [ok("cores", found)]


def cpu_quota(cgroup: Path) -> float | None:
    """Return the cores' time that the control group allows, or None where it sets no limit (v2, then v1)."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        return None if quota < 0 else quota / int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


def clocks() -> list[Finding]:
    """The CPU's frequency governor, and GPU clocks that are held down."""
    paths = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return [governor_finding({path.read_text().strip() for path in paths}), *gpu_clocks()]


def governor_finding(governors: set[str]) -> Finding:
    """Judge the frequency governors of all cores."""
    if not governors:
        return none("cpu clocks", "the kernel shows no frequency governor (usual in a virtual machine): not known")
    slow = governors - {"performance"}
    if not slow:
        return ok("cpu clocks", "frequency governor: performance")
    return warn("cpu clocks", f"frequency governor: {', '.join(sorted(governors))}; clocks follow the load, so that "
                "short steps are timed at another frequency than long ones.",
                "cpupower frequency-set --governor performance (as root)")  # fmt: skip


def gpu_clocks() -> list[Finding]:
    """What holds a GPU's clock down, by nvidia-smi."""
    text = output_of(
        "nvidia-smi", "--query-gpu=index,clocks.max.sm,clocks_throttle_reasons.hw_slowdown,"
        "clocks_throttle_reasons.sw_power_cap,clocks_throttle_reasons.hw_thermal_slowdown,power.limit,"
        "power.max_limit,persistence_mode", "--format=csv,noheader,nounits",
    )  # fmt: skip
    return [] if text is None else gpu_clock_findings(text)


def gpu_clock_findings(text: str) -> list[Finding]:
    """Judge the lines of nvidia-smi's answer, one a GPU."""
    faults: list[str] = []
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines() if line.strip()]
    for index, _, *reasons, limit, most, _ in rows:
        named = zip(("hardware", "power cap", "heat"), reasons, strict=True)
        held = [name for name, active in named if active == "Active"]
        faults += [f"GPU {index} is slowed by {', '.join(held)}"] if held else []
        if _is_number(limit) and _is_number(most) and float(limit) < 0.95 * float(most):
            faults.append(f"GPU {index}'s power limit is {limit} W of {most} W")
    if faults:
        fix = "Cool it, or raise the limit: nvidia-smi --power-limit (root)."
        return [warn("gpu clocks", f"{'; '.join(faults)}.", fix)]
    who = "1 GPU" if len(rows) == 1 else f"{len(rows)} GPUs"
    return [ok("gpu clocks", f"nothing holds the clocks of {who} down")] if rows else []


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9.]+", text) is not None


def interconnect() -> list[Finding]:
    """Which way NCCL will take between GPUs of this host, and to others."""
    topology = output_of("nvidia-smi", "topo", "-m")
    if topology is None:
        return [none("interconnect", "no NVIDIA GPU here, so NCCL has nothing to connect; gloo uses TCP")]
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("NCCL_")}
    return [between_gpus(topology), *between_hosts(infiniband(Path("/sys"))), *nccl_settings(settings)]


def between_gpus(topology: str) -> Finding:
    """Judge the slowest link of `nvidia-smi topo -m`'s matrix."""
    num_gpus, links = gpu_links(topology)
    if num_gpus < 2:
        return ok("interconnect", "one GPU: nothing to connect on this host")
    slowest = max(links, key=lambda link: list(LINKS).index(link), default=None)
    if slowest is None:
        return none("interconnect", "nvidia-smi's topology could not be read")
    ways = " and ".join(LINKS[link] for link in LINKS if link in links)
    found = f"between {num_gpus} GPUs of this host NCCL will use {ways}"
    if slowest in ("NODE", "SYS"):
        return warn("interconnect", f"{found}: the slowest pair sets the pace.",
                    "Use GPUs under one PCIe root (CUDA_VISIBLE_DEVICES).")  # fmt: skip
    return ok("interconnect", found)


def gpu_links(topology: str) -> tuple[int, set[str]]:
    """Return how many GPUs the matrix has, and the kinds of link between different ones."""
    rows = [line.split() for line in topology.splitlines() if re.match(r"GPU\d+\s", line.strip())]
    rows = [row for row in rows if "X" in row]
    words = {word for row in rows for word in row[1 : 1 + len(rows)]}
    return len(rows), {re.sub(r"\d+$", "", word) for word in words} & set(LINKS)


def infiniband(sys_root: Path) -> dict[str, str]:
    """Return device → 'state, rate' of each InfiniBand or RoCE port."""
    ports = sorted(sys_root.glob("class/infiniband/*/ports/*"))
    return {
        f"{port.parent.parent.name}/{port.name}": ", ".join(
            (port / name).read_text().strip() for name in ("state", "rate") if (port / name).exists()
        )
        for port in ports
    }


def between_hosts(ports: Mapping[str, str]) -> list[Finding]:
    """Judge what NCCL finds for other hosts."""
    active = [name for name, state in ports.items() if "ACTIVE" in state]
    told = "; ".join(f"{name} ({state})" for name, state in ports.items())
    if active:
        return [ok("between hosts", f"InfiniBand or RoCE: {told}")]
    if ports:
        return [warn("between hosts", f"InfiniBand is here, but no port is active: {told}; NCCL falls back to TCP.",
                     "Ask who runs the fabric; `ibstat` shows the ports.")]  # fmt: skip
    return [ok("between hosts", "no InfiniBand: between hosts NCCL will use TCP over this host's network interfaces")]


def nccl_settings(settings: Mapping[str, str]) -> list[Finding]:
    """Judge NCCL_* variables: those that take a fast way out of use are named."""
    if not settings:
        return []
    told = ", ".join(f"{name}={value}" for name, value in settings.items())
    slow = [f"{name}: {why}" for name, why in SLOWS_NCCL.items() if settings.get(name, "0") not in ("", "0")]
    if slow:
        return [warn("NCCL settings", f"{told}. {'; '.join(slow)}.", "Unset them, unless a fault made them needed.")]
    return [ok("NCCL settings", told)]
