"""Emulated hosts on one Linux machine: network namespaces joined by links with a rate limit. Torch-free; needs root.

Two hosts hang on one cable (a veth pair); more hang on a switch (a bridge in a namespace of its own). Every end of a
cable limits what leaves it (`tc tbf`) and, where asked, delays it (`tc netem`). Everything lives inside namespaces, and
the name of each carries the launcher's pid: `ws{PID}h{HOST}`. Removing the namespaces removes all of it. They go when
the launcher leaves, however it leaves; after a SIGKILL the next lab finds and removes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from worldsize.config.around import LabConfig
from worldsize.config.rates import parse_rate
from worldsize.errors import UserError
from worldsize.records import EmulatedNetwork

NETNS = Path("/run/netns")
NAME = re.compile(r"ws(\d+)(?:h\d+|switch)")
DEVICE = "eth0"
"""What a host calls its end of the cable."""
EMULATED = "WORLDSIZE_EMULATED"
"""Environment variable that tells a rank the emulated network: an EmulatedNetwork as JSON."""
LEAST_BURST_BYTES = 6_000
"""A few Ethernet frames: what a link sends at once must be short beside any message that it is to slow down."""
BURST_S = 1e-3
QUEUE_MS = 100
NETEM_PACKETS = 100_000


@dataclass(frozen=True)
class Place:
    """Where a process runs: what stands before its command, and what its environment adds."""

    prefix: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lab:
    """Emulated hosts 0 … num_hosts-1 of the launcher `pid`; `link_bit_per_s` None is no limit."""

    num_hosts: int
    link_bit_per_s: float | None
    latency_s: float
    pid: int

    @property
    def names(self) -> list[str]:
        """The namespaces: the hosts', and the switch's where there are more than two."""
        hosts = [self.host(index) for index in range(self.num_hosts)]
        return hosts if self.num_hosts == 2 else [*hosts, self.switch]

    @property
    def switch(self) -> str:
        return f"ws{self.pid}switch"

    def host(self, index: int) -> str:
        return f"ws{self.pid}h{index}"

    def network(self) -> EmulatedNetwork:
        return EmulatedNetwork(num_hosts=self.num_hosts, link_bit_per_s=self.link_bit_per_s, latency_s=self.latency_s)

    def place(self, host: int) -> Place:
        """Return where a process of one host runs: in its namespace and on its cores, ended when the launcher ends."""
        cores = ",".join(map(str, host_cores(host, self.num_hosts, sorted(os.sched_getaffinity(0)))))
        prefix = ["ip", "netns", "exec", self.host(host), "setpriv", "--pdeathsig", "KILL", "taskset", "-c", cores]
        environment = {
            "MASTER_ADDR": address(0),
            "GLOO_SOCKET_IFNAME": DEVICE,
            "NCCL_SOCKET_IFNAME": DEVICE,
            EMULATED: self.network().model_dump_json(),
        }
        return Place(prefix, environment)


def address(host: int) -> str:
    """Return a host's address, from the block that RFC 2544 sets aside for measuring networks."""
    return f"198.18.0.{host + 1}"


def host_cores(host: int, num_hosts: int, allowed: Sequence[int]) -> list[int]:
    """Return the cores of one host: an equal share of them, or one in turn where there are more hosts than cores."""
    share = len(allowed) // num_hosts
    return list(allowed[host * share : (host + 1) * share]) if share else [allowed[host % len(allowed)]]


def setup_commands(lab: Lab) -> list[list[str]]:
    """Return the `ip` and `tc` command lines that make the lab, in order."""
    commands = [["ip", "netns", "add", name] for name in lab.names]
    ends = [(lab.host(index), DEVICE) for index in range(lab.num_hosts)]
    if lab.num_hosts == 2:
        commands.append(_cable(ends[0], ends[1]))
    else:
        commands.append(["ip", "-n", lab.switch, "link", "add", "switch", "type", "bridge"])
        ports = [(lab.switch, f"port{index}") for index in range(lab.num_hosts)]
        for host, port in zip(ends, ports, strict=True):
            commands += [_cable(host, port), ["ip", "-n", lab.switch, "link", "set", port[1], "master", "switch"]]
        ends += ports
        commands.append(["ip", "-n", lab.switch, "link", "set", "switch", "up"])
    for index in range(lab.num_hosts):
        name = lab.host(index)
        commands.append(["ip", "-n", name, "addr", "add", f"{address(index)}/24", "dev", DEVICE])
        commands.append(["ip", "-n", name, "link", "set", "lo", "up"])
    for name, device in ends:
        commands += limit_commands(name, device, lab)
        commands.append(["ip", "-n", name, "link", "set", device, "up"])
    return commands


def _cable(end: tuple[str, str], other: tuple[str, str]) -> list[str]:
    return ["ip", "link", "add", end[1], "netns", end[0], "type", "veth", "peer", "name", other[1], "netns", other[0]]


def limit_commands(name: str, device: str, lab: Lab) -> list[list[str]]:
    """Return the command lines that limit and delay what leaves one end of a cable."""
    commands = []
    parent = ["root"]
    if lab.link_bit_per_s is not None:
        burst = max(LEAST_BURST_BYTES, round(lab.link_bit_per_s / 8 * BURST_S))
        commands.append(
            ["tc", "-n", name, "qdisc", "add", "dev", device, "root", "handle", "1:", "tbf",
             "rate", f"{lab.link_bit_per_s:.0f}bit", "burst", f"{burst}b", "latency", f"{QUEUE_MS}ms"]
        )  # fmt: skip
        parent = ["parent", "1:"]
    if lab.latency_s and device == DEVICE:  # once on the way from host to host
        delay = ["netem", "delay", f"{lab.latency_s * 1e6:.0f}us", "limit", str(NETEM_PACKETS)]
        commands.append(["tc", "-n", name, "qdisc", "add", "dev", device, *parent, *delay])
    return commands


def link_command(lab: Lab, host: int, *, up: bool) -> list[str]:
    """Return the command line that cuts a host off from all others, or puts its cable back."""
    return ["ip", "-n", lab.host(host), "link", "set", DEVICE, "up" if up else "down"]


@contextmanager
def emulated(config: LabConfig, num_hosts: int) -> Iterator[Lab]:
    """Make `num_hosts` (two or more) emulated hosts, and remove them at the end whatever happens.

    Raises UserError without root, without `ip` and `tc`, or where this kernel lacks a part; nothing is left then.
    """
    lab = lab_of(config, num_hosts)
    refuse_where_impossible()
    remove_stale()
    with _stopped_by_sigterm():
        try:
            for command in setup_commands(lab):
                run(command)
            yield lab
        finally:
            remove(lab.names)


def lab_of(config: LabConfig, num_hosts: int) -> Lab:
    """Return the lab of a config. Raises UserError where the link is no rate."""
    rate = parse_rate(config.link) if config.link else None
    return Lab(num_hosts, rate, config.latency_ms / 1e3, os.getpid())


def refuse_where_impossible() -> None:
    """Raise UserError, with what to do, where this process cannot make namespaces."""
    if sys.platform != "linux":
        raise UserError(f"emulated hosts are network namespaces, which {sys.platform} has not. Use a Linux machine.")
    if os.geteuid() != 0:
        raise UserError("emulated hosts need root: type the same command after sudo, or leave lab.hosts at 1.")
    missing = [tool for tool in ("ip", "tc", "taskset", "setpriv") if not shutil.which(tool)]
    if missing:
        raise UserError(
            f"emulated hosts need {', '.join(missing)}, not found here: apt-get install iproute2 util-linux (or what "
            "your distribution calls them)."
        )


def run(command: Sequence[str]) -> str:
    """Run a command line and return what it printed. Raises UserError with its complaint, and what the kernel lacks."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = done.stderr.strip().rstrip(".")
        raise UserError(f"`{' '.join(command)}` failed: {complaint}. {_hint(command)}")
    return done.stdout


def _hint(command: Sequence[str]) -> str:
    if "netem" in command:
        return "This kernel has no netem, so no latency can be emulated: leave lab.latency_ms (--latency-ms) at 0."
    lacking = {"tbf": "NET_SCH_TBF", "veth": "VETH", "bridge": "BRIDGE", "netns": "NET_NS"}
    part = next((option for word, option in lacking.items() if word in command), None)
    return f"Does this kernel have CONFIG_{part}? (In a container, is it privileged?)" if part else ""


def remove_stale() -> list[str]:
    """Remove the namespaces of labs whose launcher is gone; return their names."""
    stale = [name for name in existing() if is_stale(name)]
    remove(stale)
    return stale


def existing() -> list[str]:
    """Return the names of all labs' namespaces on this machine."""
    return sorted(path.name for path in NETNS.glob("ws*") if NAME.fullmatch(path.name))


def is_stale(name: str) -> bool:
    """Tell whether the launcher that a namespace names is gone, or its pid now belongs to a later process."""
    found = NAME.fullmatch(name)
    assert found is not None
    try:
        began = psutil.Process(int(found[1])).create_time()
        return began > (NETNS / name).stat().st_mtime + 1
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True


def remove(names: Sequence[str]) -> None:
    """End what still runs in these namespaces and remove them; names that are not there are left out."""
    for name in names:
        if not (NETNS / name).exists():
            continue
        pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
        for pid in pids.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does; outside of the main thread leave it alone."""

    def leave(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before: Any = None
    with suppress(ValueError):
        before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def emulated_network() -> EmulatedNetwork | None:
    """Return the emulated network that this process is in, or None."""
    told = os.environ.get(EMULATED)
    return EmulatedNetwork(**json.loads(told)) if told else None
