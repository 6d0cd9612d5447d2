"""Runs a job's ranks as processes of this machine and says in one message what went wrong. Torch-free."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsize.checkpoint_folder import begin, next_command
from worldsize.config.load import Loaded, resolve
from worldsize.config.rules import check
from worldsize.config.schema import Config
from worldsize.data.task import prepare_task
from worldsize.errors import RunError, UserError
from worldsize.launch.lab import Place, emulated
from worldsize.launch.pinning import is_for_cpu
from worldsize.launch.progress import OnProgress, Progress, silent
from worldsize.run_folder import locked

WORKER = [sys.executable, "-m", "worldsize.train.worker"]
"""What a rank's process runs."""
ECHO_S = 1.0
"""How long the other ranks may go on once one has failed: long enough to hear who failed first."""
TIMED_OUT_ECHO_S = 10.0
"""The same where it failed because another did not answer: each counts its own time, and each has its say."""
GRACE_S = 3.0
"""How long a rank may take to end after its last message, and after SIGTERM."""


@dataclass
class _Rank:
    """One rank's process and what it has said."""

    rank: int
    process: subprocess.Popen[str]
    messages_fd: int
    error: dict[str, Any] | None = None
    returncode: int | None = None
    """How it ended by itself; None when we had to end it."""
    last_step: int = 0
    _unread: bytes = b""

    @property
    def failed(self) -> bool:
        return self.error is not None or self.process.poll() not in (None, 0)

    def receive(self, say: OnProgress) -> bool:
        """Take in what the rank has sent; return False once it has closed its end."""
        received = os.read(self.messages_fd, 65536)
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "error" in message:
                self.error = message["error"]
            else:
                self.last_step = message["progress"]["step"]
                say(Progress(**message["progress"]))
        return bool(received)


def launch(
    loaded: Loaded,
    *,
    world_size: int,
    out: Path,
    command: Sequence[str],
    on_progress: OnProgress | None = None,
    resume: bool = False,
    max_restarts: int = 0,
) -> bool:
    """Run one job on `world_size` ranks of this machine; return False when `out` already holds this very run, finished.

    The corpus is prepared here, once, before any rank starts. With `resume` an unfinished run goes on from its newest
    sound checkpoint; after a failure all ranks are started again from there, up to `max_restarts` times. Raises
    UserError before anything starts, RunError with one message when the run could not finish; whatever happens, no
    process is left behind.
    """
    say = on_progress or silent
    resolved = resolved_for(loaded, world_size, say)
    with locked(out, "run"):
        for restart in range(max_restarts + 1):
            start = begin(out, resolved.config.model_dump(), world_size, resume=resume or restart > 0)
            if start is None:
                return restart > 0
            say(Progress("starting", note=" ".join(start.notes)))
            try:
                with _places(resolved.config, world_size) as places:
                    _run_ranks(resolved, places, out, command, say, start.checkpoint)
                break
            except RunError as error:
                if restart == max_restarts:
                    raise
                say(Progress("restarting", restart + 1, max_restarts, note=str(error)))
    return True


@contextlib.contextmanager
def _places(config: Config, world_size: int) -> Iterator[list[Place]]:
    """Return where each rank's process runs: on this machine, or on its emulated host."""
    num_hosts = min(config.lab.hosts, world_size)
    if num_hosts == 1:
        loopback = os.environ.get("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        here = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": loopback}
        yield [Place([], {**here, "LOCAL_RANK": str(rank)}) for rank in range(world_size)]
        return
    if not is_for_cpu(config.device):
        raise UserError("emulated hosts divide this machine's cores, not its GPUs. Add device.kind=cpu.")
    with emulated(config.lab, num_hosts) as lab:
        per_host = world_size // num_hosts
        hosts = [lab.place(rank // per_host) for rank in range(world_size)]
        yield [
            Place(host.prefix, {**host.environment, "LOCAL_RANK": str(rank % per_host)})
            for rank, host in enumerate(hosts)
        ]


def resolved_for(loaded: Loaded, world_size: int, say: OnProgress) -> Loaded:
    """Check the config, prepare its data and fill in what follows from both."""
    check(loaded.config, world_size)
    data = prepare_task(
        loaded.config.data,
        on_progress=lambda share, what: say(Progress("preparing", round(share * 100), 100, note=what)),
    )
    return resolve(loaded, world_size, data.vocab_size, data.num_classes)


def _run_ranks(
    loaded: Loaded,
    places: Sequence[Place],
    out: Path,
    command: Sequence[str],
    say: OnProgress,
    checkpoint: Path | None,
) -> None:
    job = json.dumps(
        {
            "config": loaded.config.model_dump(),
            "origins": {key: origin.model_dump() for key, origin in loaded.origins.items()},
            "out": str(out),
            "command": list(command),
            "checkpoint": str(checkpoint) if checkpoint else None,
        }
    )
    port = free_port()
    ranks: list[_Rank] = []
    try:
        for index, place in enumerate(places):
            ranks.append(_start(index, len(places), place, port, job, out))
        _watch(ranks, say)
        for rank in ranks:
            rank.returncode = rank.process.poll()
    finally:
        _end(ranks)
    for rank in ranks:
        if rank.error:
            keep_details(rank.rank, f"{rank.error['message']}\n{rank.error['details']}", out)
    if any(rank.error or rank.returncode != 0 for rank in ranks):
        raise RunError(_what_happened(ranks, out))
    for rank in ranks:
        (out / details_name(rank.rank)).unlink(missing_ok=True)


def _start(rank: int, world_size: int, place: Place, port: int, job: str, out: Path) -> _Rank:
    read_fd, write_fd = os.pipe()
    environment = {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_PORT": str(port),
        **place.environment,
        "WORLDSIZE_MESSAGES_FD": str(write_fd),
    }
    with (out / details_name(rank)).open("w") as stderr:
        process = subprocess.Popen(
            [*place.prefix, *WORKER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=stderr,
            pass_fds=(write_fd,),
            start_new_session=True,  # Ctrl-C goes to the launcher alone, which ends the ranks in order
            text=True,
        )
    os.close(write_fd)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once; its exit code says so
        process.stdin.write(job)
        process.stdin.close()
    return _Rank(rank, process, read_fd)


def _watch(ranks: Sequence[_Rank], say: OnProgress) -> None:
    """Pass on progress until every rank has ended, or for a moment after the first has failed."""
    until_s = float("inf")
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.messages_fd, selectors.EVENT_READ, rank)
        while selector.get_map() and time.monotonic() < until_s:
            for key, _ in selector.select(timeout=0.2):
                if not key.data.receive(say):
                    selector.unregister(key.fd)
            if until_s == float("inf") and any(rank.failed for rank in ranks):
                until_s = time.monotonic() + _echo_s(ranks)
    until_s = min(until_s, time.monotonic() + GRACE_S)
    for rank in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.process.wait(timeout=max(0.0, until_s - time.monotonic()))


def _echo_s(ranks: Sequence[_Rank]) -> float:
    timed_out = any(rank.error and "timed out" in rank.error["message"] for rank in ranks)
    return TIMED_OUT_ECHO_S if timed_out else ECHO_S


def _end(ranks: Sequence[_Rank]) -> None:
    """End every rank that is left: SIGTERM, a grace, SIGKILL."""
    left = [rank.process for rank in ranks if rank.process.poll() is None]
    for process in left:
        process.send_signal(signal.SIGTERM)
    until_s = time.monotonic() + GRACE_S
    for process in left:
        try:
            process.wait(timeout=max(0.0, until_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for rank in ranks:
        os.close(rank.messages_fd)


def _what_happened(ranks: Sequence[_Rank], out: Path) -> str:
    """Return the message of the rank that failed first: an error of its own, else a death, else an echo."""
    for rank in ranks:
        if rank.error and not is_echo(rank.error["message"]):
            return f"{rank.error['message']} Details: {out / details_name(rank.rank)}"
    for rank in ranks:
        if rank.returncode is not None and rank.returncode < 0:
            return _killed(rank, max(r.last_step for r in ranks), out)
    for rank in ranks:
        if rank.error:
            return f"{rank.error['message']} Details: {out / details_name(rank.rank)}"
    dead = next((rank for rank in ranks if rank.returncode), ranks[0])
    return f"rank {dead.rank} ended with exit code {dead.returncode}. Details: {out / details_name(dead.rank)}"


def _killed(rank: _Rank, last_step: int, out: Path) -> str:
    assert rank.returncode is not None
    name = signal.Signals(-rank.returncode).name
    why = "often the kernel's out-of-memory killer: lower train.micro_batch" if name == "SIGKILL" else "a crash"
    return (
        f"rank {rank.rank} was ended by {name} after step {last_step} ({why}). The other ranks were stopped. "
        f"{next_command(out)}"
    )


def is_echo(message: str) -> bool:
    """Return whether a rank's error looks like the echo of another rank's end."""
    words = ("connection closed by peer", "connection reset by peer", "broken pipe", "connection refused", "timed out")
    return any(word in message.lower() for word in words)


def details_name(rank: int) -> str:
    return f"error.rank{rank}.txt"


def keep_details(rank: int, details: str, out: Path) -> None:
    """Add a failed rank's traceback to what it wrote on standard error."""
    with contextlib.suppress(OSError), (out / details_name(rank)).open("a") as file:
        file.write(details)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
