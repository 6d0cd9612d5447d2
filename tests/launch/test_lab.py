"""Emulated hosts: the command lines that make them, what is left of them, and real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.emulated import skip_without_lab
from worldsize.config.around import LabConfig
from worldsize.errors import UserError
from worldsize.launch import lab
from worldsize.launch.lab import Lab, host_cores, setup_commands

TWO = Lab(2, 1e9, 0.0, 4711)


def lines(made: Lab) -> list[str]:
    return [" ".join(command) for command in setup_commands(made)]


def test_two_hosts_hang_on_one_cable_and_both_ends_are_limited() -> None:
    assert lines(TWO) == [
        "ip netns add ws4711h0",
        "ip netns add ws4711h1",
        "ip link add eth0 netns ws4711h0 type veth peer name eth0 netns ws4711h1",
        "ip -n ws4711h0 addr add 198.18.0.1/24 dev eth0",
        "ip -n ws4711h0 link set lo up",
        "ip -n ws4711h1 addr add 198.18.0.2/24 dev eth0",
        "ip -n ws4711h1 link set lo up",
        "tc -n ws4711h0 qdisc add dev eth0 root handle 1: tbf rate 1000000000bit burst 125000b latency 100ms",
        "ip -n ws4711h0 link set eth0 up",
        "tc -n ws4711h1 qdisc add dev eth0 root handle 1: tbf rate 1000000000bit burst 125000b latency 100ms",
        "ip -n ws4711h1 link set eth0 up",
    ]


def test_more_hosts_hang_on_a_switch_that_limits_its_ports_too() -> None:
    made = Lab(3, 1e8, 0.0, 4711)
    assert made.names == ["ws4711h0", "ws4711h1", "ws4711h2", "ws4711switch"]
    limited = [line for line in lines(made) if " tbf " in line]
    assert [line.split()[2:7:4] for line in limited] == [[name, "eth0"] for name in made.names[:3]] + [
        ["ws4711switch", f"port{i}"] for i in range(3)
    ]
    assert all("rate 100000000bit burst 12500b" in line for line in limited)
    assert sum("master switch" in line for line in lines(made)) == 3


def test_a_slow_link_still_lets_whole_frames_through() -> None:
    assert " burst 6000b " in " ".join(lines(Lab(2, 1e6, 0.0, 1)))


def test_latency_is_added_once_on_the_way_from_host_to_host() -> None:
    delays = [line for line in lines(Lab(3, 1e9, 0.002, 7)) if "netem" in line]
    assert [line.split()[2] for line in delays] == ["ws7h0", "ws7h1", "ws7h2"]
    assert all("parent 1: netem delay 2000us" in line for line in delays)
    without_limit = [line for line in lines(Lab(2, None, 0.002, 7)) if "qdisc" in line]
    assert all("root netem delay 2000us" in line for line in without_limit)


def test_without_link_and_latency_nothing_is_shaped() -> None:
    assert not any(line.startswith("tc") for line in lines(Lab(2, None, 0.0, 7)))


def test_names_fit_the_kernels_limits() -> None:
    largest = Lab(64, 1e9, 0.0, 4194304)
    devices = [word for command in setup_commands(largest) for word in command if word.startswith(("eth", "port"))]
    assert max(map(len, devices)) < 16


@pytest.mark.parametrize(
    ("host", "num_hosts", "allowed", "cores"),
    [(0, 2, [0, 1], [0]), (1, 2, [0, 1], [1]), (1, 2, [4, 5, 6, 7, 9], [6, 7]), (3, 4, [0, 1], [1])],
)
def test_hosts_share_the_cores(host: int, num_hosts: int, allowed: list[int], cores: list[int]) -> None:
    assert host_cores(host, num_hosts, allowed) == cores


def test_namespaces_of_the_living_and_of_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "NETNS", tmp_path)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    gone, here = int(ended.stdout), os.getpid()
    for name in (f"ws{gone}h0", f"ws{gone}switch", f"ws{here}h0", "wsother", f"ws{gone}", "blue"):
        (tmp_path / name).touch()
    assert [name for name in lab.existing() if lab.is_stale(name)] == sorted([f"ws{gone}h0", f"ws{gone}switch"])


def test_a_later_process_with_the_same_pid_does_not_keep_a_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "NETNS", tmp_path)
    name = f"ws{os.getpid()}h0"
    (tmp_path / name).touch()
    long_ago = psutil.Process().create_time() - 3600
    os.utime(tmp_path / name, (long_ago, long_ago))
    assert lab.is_stale(name)


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="need root: type the same command after sudo"), lab.emulated(LabConfig(), 2):
        pass


def test_without_the_tools_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(lab.shutil, "which", lambda tool: None if tool in ("ip", "tc") else f"/bin/{tool}")
    with pytest.raises(UserError, match=r"need ip, tc, not found here: apt-get install iproute2"):
        lab.refuse_where_impossible()


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (["tc", "qdisc", "add", "netem"], "no netem, so no latency can be emulated"),
        (["tc", "qdisc", "add", "tbf"], "CONFIG_NET_SCH_TBF"),
        (["ip", "link", "add", "type", "veth"], "CONFIG_VETH"),
    ],
)
def test_what_the_kernel_lacks_is_named(
    command: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in ("ip", "tc"):
        (tmp_path / tool).write_text("#!/bin/sh\necho 'Error: Specified qdisc kind is unknown.' >&2; exit 2\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=hint):
        lab.run(command)


def test_real_hosts_are_there_and_then_gone() -> None:
    skip_without_lab()
    with lab.emulated(LabConfig(hosts=3, link="100mbit"), 3) as made:
        assert set(made.names) <= set(lab.existing())
        shaped = lab.run(["tc", "-n", made.host(1), "qdisc", "show", "dev", "eth0"])
        assert "tbf" in shaped
        assert "rate 100Mbit" in shaped
    assert not set(made.names) & set(lab.existing())


def test_an_error_leaves_no_host() -> None:
    skip_without_lab()
    with pytest.raises(KeyError), lab.emulated(LabConfig(hosts=2), 2) as made:
        raise KeyError
    assert not set(made.names) & set(lab.existing())


HOLDS_A_LAB = """
import subprocess, time
from pathlib import Path
from worldsize.config.around import LabConfig
from worldsize.launch.lab import emulated
with emulated(LabConfig(hosts=2, link="1gbit"), 2) as made:
    child = subprocess.Popen([*made.place(1).prefix, "sleep", "600"])
    while Path(f"/proc/{child.pid}/comm").read_text() != "sleep\\n":  # before, it does not yet end with its parent
        time.sleep(0.01)
    print(child.pid, *made.names, flush=True)
    time.sleep(600)
"""


def held_lab() -> tuple[subprocess.Popen[str], int, list[str]]:
    """Start a process that holds a lab; return it, the pid of a program on its host 1, and the lab's names."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDS_A_LAB], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    pid, *names = holder.stdout.readline().split()
    return holder, int(pid), names


def wait_until_ended(pid: int) -> None:
    until_s = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until_s, f"{pid} still runs"
        time.sleep(0.05)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_launcher_takes_its_hosts_along(sent: signal.Signals) -> None:
    skip_without_lab()
    holder, pid, names = held_lab()
    holder.send_signal(sent)
    holder.communicate(timeout=60)
    assert not set(names) & set(lab.existing())
    wait_until_ended(pid)


def test_what_a_killed_launcher_left_is_removed_by_the_next() -> None:
    skip_without_lab()
    holder, pid, names = held_lab()
    holder.kill()
    holder.communicate(timeout=60)
    assert set(names) <= set(lab.existing())
    with lab.emulated(LabConfig(hosts=2), 2) as made:
        assert not set(names) & set(lab.existing())
        assert set(made.names) <= set(lab.existing())
    wait_until_ended(pid)
