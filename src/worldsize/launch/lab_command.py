"""Runs one command on every emulated host at once, as an operator would start an agent on each machine. Torch-free."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import IO, TextIO

from worldsize.launch.lab import Lab, address
from worldsize.records import Record

GRACE_S = 5.0
"""How long the other hosts may go on once one has failed, and then after SIGTERM."""


class HostExit(Record):
    """How the command ended on one host."""

    host: int
    exit_code: int


def free_port() -> int:
    """Return a port that is free here; in namespaces made just now every port is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(lab: Lab, host: int, port: int) -> dict[str, str]:
    """Return what the command of one host finds in its environment: its place, under the names that torchrun reads."""
    rendezvous = {"MASTER_PORT": str(port), "NNODES": str(lab.num_hosts), "NODE_RANK": str(host)}
    torchrun = {
        "PET_NNODES": str(lab.num_hosts),
        "PET_NODE_RANK": str(host),
        "PET_MASTER_ADDR": address(0),
        "PET_MASTER_PORT": str(port),
    }
    return {**lab.place(host).environment, **rendezvous, **torchrun}


def run_everywhere(lab: Lab, command: Sequence[str], output: TextIO) -> list[HostExit]:
    """Run `command` on every host until all have ended; each line it prints goes to `output` with its host's number.

    Where one host fails, the others are ended after a grace. Whatever happens, none is left running.
    """
    port = free_port()
    processes: list[subprocess.Popen[str]] = []
    try:
        for host in range(lab.num_hosts):
            process = subprocess.Popen(
                [*lab.place(host).prefix, *command],
                env={**os.environ, **environment_of(lab, host, port)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            processes.append(process)
        _pass_on(processes, output)
    finally:
        _end(processes)
    return [HostExit(host=host, exit_code=process.returncode) for host, process in enumerate(processes)]


def _pass_on(processes: Sequence[subprocess.Popen[str]], output: TextIO) -> None:
    """Copy what the hosts say until all have ended, or for a grace after the first has failed."""
    until_s = float("inf")
    with selectors.DefaultSelector() as selector:
        for host, process in enumerate(processes):
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            selector.register(process.stdout, selectors.EVENT_READ, (host, _Lines(process.stdout)))
        while selector.get_map() and time.monotonic() < until_s:
            for key, _ in selector.select(timeout=0.2):
                host, lines = key.data
                if not lines.copy(f"[host {host}] ", output):
                    selector.unregister(key.fileobj)
            if until_s == float("inf") and any(process.poll() for process in processes):
                until_s = time.monotonic() + GRACE_S


class _Lines:
    """Whole lines out of a stream that is read without waiting."""

    def __init__(self, stream: IO[str]) -> None:
        self._fd = stream.fileno()
        self._unread = b""

    def copy(self, mark: str, output: TextIO) -> bool:
        """Write the lines that are there, each after `mark`; return False at the end of the stream."""
        received = os.read(self._fd, 65536)
        *lines, self._unread = (self._unread + received).split(b"\n")
        if not received and self._unread:
            lines.append(self._unread)
        for line in lines:
            print(mark + line.decode(errors="replace"), file=output, flush=True)
        return bool(received)


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    until_s = time.monotonic() + GRACE_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, until_s - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
