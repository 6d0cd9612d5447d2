"""`worldsize lab`: commands on every emulated host, and what its links give."""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests.emulated import skip_without_lab
from worldsize.__main__ import main
from worldsize.launch import lab
from worldsize.launch.lab import Lab
from worldsize.launch.lab_command import environment_of


def test_torchrun_finds_its_place_in_the_environment() -> None:
    environment = environment_of(Lab(2, 1e9, 0.0, 4711), 1, 12345)
    expected = {
        "PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "198.18.0.1", "PET_MASTER_PORT": "12345",
        "NODE_RANK": "1", "MASTER_ADDR": "198.18.0.1", "GLOO_SOCKET_IFNAME": "eth0",
    }  # fmt: skip
    assert expected.items() <= environment.items()
    assert json.loads(environment["WORLDSIZE_EMULATED"])["link_bit_per_s"] == 1e9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--link", "1gb"], "no link rate"),
        (["--hosts", "1"], "--hosts"),
        (["--hosts", "x"], "--hosts"),
        (["--latency-ms", "-1"], "--latency-ms"),
    ],
)
def test_bad_input_is_answered(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["lab", "--hosts", "2", "--link", "1gbit"]) == 2
    assert "need root" in capsys.readouterr().err


def test_a_command_runs_on_every_host_and_its_failure_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    skip_without_lab()
    script = "echo $NODE_RANK of $NNODES at $MASTER_ADDR; cat /sys/class/net/eth0/address; exit $((NODE_RANK * 3))"
    assert main(["lab", "--hosts", "2", "--json", "--", "sh", "-c", script]) == 1
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["hosts"] == [{"host": 0, "exit_code": 0}, {"host": 1, "exit_code": 3}]
    assert answer["network"]["num_hosts"] == 2
    assert "[host 0] 0 of 2 at 198.18.0.1" in said.err
    assert "[host 1] 1 of 2 at 198.18.0.1" in said.err
    assert "host 1 ended with exit code 3" in said.err
    addresses = {line for line in said.err.splitlines() if ":" in line and len(line.split(":")) == 6}
    assert len(addresses) == 2


def test_hosts_reach_each_other_and_nobody_else(capsys: pytest.CaptureFixture[str]) -> None:
    skip_without_lab()
    program = (
        "import os, socket, time\n"
        "host, port = int(os.environ['NODE_RANK']), int(os.environ['MASTER_PORT'])\n"
        "if host == 0:\n"
        "    server = socket.create_server(('198.18.0.1', port)); print(server.accept()[0].recv(9).decode())\n"
        "else:\n"
        "    for attempt in range(600):\n"
        "        try:\n"
        "            socket.create_connection(('198.18.0.1', port), timeout=5).sendall(b'hello'); break\n"
        "        except OSError:\n"
        "            time.sleep(0.05)\n"
        "    try:\n"
        "        socket.create_connection(('192.0.2.1', 80), timeout=1)\n"
        "    except OSError as error:\n"
        "        print('alone:', error)\n"
    )
    assert main(["lab", "--hosts", "2", "--", sys.executable, "-c", program]) == 0
    said = capsys.readouterr().out
    assert "[host 0] hello" in said
    assert "[host 1] alone: [Errno 101] Network is unreachable" in said


@pytest.mark.slow
def test_no_all_reduce_is_faster_than_its_link(capsys: pytest.CaptureFixture[str]) -> None:
    """A token bucket's limit is a hard upper bound; below it a busy machine may fall far."""
    skip_without_lab()
    assert main(["lab", "--hosts", "2", "--link", "100mbit", "--json"]) == 0
    network = json.loads(capsys.readouterr().out)
    assert 5e6 < network["all_reduce_bit_per_s"] < 1.02 * network["link_bit_per_s"]


def test_clean_removes_only_what_is_stale(capsys: pytest.CaptureFixture[str]) -> None:
    skip_without_lab()
    lab.run(["ip", "netns", "add", "ws4194999h0"])  # above the largest pid
    assert main(["lab", "--clean", "--json"]) == 0
    assert "ws4194999h0" in json.loads(capsys.readouterr().out)["removed"]
    assert "ws4194999h0" not in lab.existing()
