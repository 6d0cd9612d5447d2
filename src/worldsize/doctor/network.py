"""Names, ports, the clock, and whether hosts can be emulated here. Torch-free."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

from worldsize.doctor.finding import Finding, fail, none, ok, warn
from worldsize.errors import UserError

TORCHRUN_PORT = 29500
TIME_ERROR = 5
ANSWER_S = 2.0


def names() -> list[Finding]:
    """Whether this host's own name, and MASTER_ADDR where it is set, lead to an address."""
    host = socket.gethostname()
    master = os.environ.get("MASTER_ADDR")
    if master and address_of(master) is None:
        return [fail("names", f"MASTER_ADDR={master} does not resolve: ranks cannot meet.",
                     "Give the address of the first host, or add the name to /etc/hosts.")]  # fmt: skip
    address = address_of(host)
    if address is None:
        return [warn("names", f"this host's name {host!r} does not resolve; gloo then asks for an interface by name.",
                     f"Add {host} to /etc/hosts, or set GLOO_SOCKET_IFNAME.")]  # fmt: skip
    if address.startswith("127."):
        return [warn("names", f"this host's name {host!r} leads to {address}, where other hosts cannot reach it.",
                     "For runs over several hosts set GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) to the network's "
                     "interface, or mend /etc/hosts. One host needs nothing.")]  # fmt: skip
    return [ok("names", f"{host} is {address}")]


def address_of(name: str) -> str | None:
    """Return the IPv4 address of a name, or None."""
    try:
        return socket.gethostbyname(name)
    except OSError:
        return None


def ports() -> list[Finding]:
    """Whether ranks can listen and reach each other on this host, and whether torchrun's usual port is free."""
    found = [reachable("127.0.0.1", "loopback")]
    outside = outside_address()
    if outside:
        found.append(reachable(outside, f"address {outside}"))
    wanted = os.environ.get("MASTER_PORT", str(TORCHRUN_PORT))
    if wanted.isdigit() and not is_free(int(wanted)):
        why = "MASTER_PORT" if "MASTER_PORT" in os.environ else "torchrun's usual port"
        found.append(warn("rendezvous port", f"port {wanted} ({why}) is taken.",
                          "Give torchrun another: --master-port 29501."))  # fmt: skip
    else:
        found.append(ok("rendezvous port", f"port {wanted} is free"))
    return found


def outside_address() -> str | None:
    """Return the address that this host would use towards others, or None where it has no way out. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def reachable(address: str, what: str) -> Finding:
    """Listen on a free port of an address and connect to it: what a firewall on this host would forbid."""
    check = f"ports ({what})"
    try:
        with socket.socket() as server:
            server.bind((address, 0))
            server.listen()
            with socket.create_connection(server.getsockname(), timeout=ANSWER_S):
                return ok(check, f"a rank can listen on {address} and be reached there")
    except OSError as error:
        return fail(check, f"listening on {address} and connecting to it failed: {error.strerror or error}.",
                    "Allow TCP between ranks in this host's firewall; are there free ports?")  # fmt: skip


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def time_sync() -> list[Finding]:
    """Whether the kernel's clock is kept in step with others'. Timings never subtract two hosts' clocks."""
    state = kernel_clock_state()
    if state is None:
        return [none("time", "whether the clock is synchronised cannot be known here")]
    if state == TIME_ERROR:
        return [warn("time", "the kernel says that its clock is not synchronised. Step times are not affected (each "
                     "rank times itself); start times and logs of several hosts may not line up.",
                     "Start chrony or systemd-timesyncd on every host.")]  # fmt: skip
    return [ok("time", "the clock is synchronised")]


def kernel_clock_state() -> int | None:
    """Return what adjtimex(2) answers when nothing is changed: TIME_ERROR is an unsynchronised clock."""
    if sys.platform != "linux":
        return None
    try:
        state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)))
    except (OSError, AttributeError):
        return None
    return state if state >= 0 else None


def emulation() -> list[Finding]:
    """Whether `worldsize lab` can make hosts here, and what of it this kernel lacks."""
    from worldsize.config.around import LabConfig
    from worldsize.launch import lab

    try:
        with lab.emulated(LabConfig(hosts=2, link="1gbit"), 2) as made:
            delay = ["parent", "1:", "netem", "delay", "1ms"]
            try:
                lab.run(["tc", "-n", made.host(0), "qdisc", "add", "dev", lab.DEVICE, *delay])
            except UserError:
                return [ok("emulated hosts", "can be made, with limited links; without latency (no netem here)")]
    except UserError as error:
        return [none("emulated hosts", str(error))]
    return [ok("emulated hosts", "can be made, with limited links and latency")]


def interface_speeds(sys_root: Path) -> dict[str, int]:
    """Return the rate (Mbit/s) of each network interface that is up and tells it."""
    speeds = {}
    for path in sorted(sys_root.glob("class/net/*/speed")):
        try:
            speed = int(path.read_text())
        except (OSError, ValueError):
            continue
        if speed > 0:
            speeds[path.parent.name] = speed
    return speeds


def interfaces() -> list[Finding]:
    """The network interfaces' rates."""
    speeds = interface_speeds(Path("/sys"))
    if not speeds:
        return [none("network", "no interface tells its rate (usual in a virtual machine)")]
    told = ", ".join(f"{name} {speed / 1000:g} Gbit/s" for name, speed in speeds.items())
    if max(speeds.values()) < 10_000:
        return [warn("network", f"{told}: slow for an exchange of gradients between hosts.",
                     "One host needs nothing. For several see docs/explain/break-even.md.")]  # fmt: skip
    return [ok("network", told)]
