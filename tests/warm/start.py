"""Starts the server of this folder, and says how to type a command that it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.warm.client import SOCKET
from worldsize.launch import local

HERE = Path(__file__).parent
LONGEST_S = 240
"""How long its imports may take, on a machine that does other things too."""


@dataclass(frozen=True)
class Warm:
    socket: str
    """Address of the server, for the variable client.SOCKET of the environment."""

    @staticmethod
    def command(module: str) -> list[str]:
        """Return the words that stand for `python -m MODULE`: `worldsize` or `worldsize.train.worker`."""
        return [sys.executable, "-I", "-S", str(HERE / "client.py"), module]


@contextmanager
def started(folder: Path) -> Iterator[Warm | None]:
    """Run the server with its output in `folder`; it ends with this process. None where it cannot be had."""
    if sys.platform != "linux":
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ws") as short:  # an address may have 107 characters
        socket = Path(short, "warm")
        paths = [str(HERE.parents[1] / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [sys.executable, str(HERE / "server.py"), str(socket)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        until_s = time.monotonic() + LONGEST_S
        while not socket.exists():
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until_s, "the server has not begun"
            time.sleep(0.05)
        try:
            yield Warm(str(socket))
        finally:
            assert server.stdin is not None
            server.stdin.close()
            server.wait(timeout=60)


@contextmanager
def ranks_forked(warm: Warm | None) -> Iterator[None]:
    """Let `launch` have its ranks from the server; with None they are new processes as ever."""
    with pytest.MonkeyPatch.context() as patched:
        if warm:
            patched.setattr(local, "WORKER", warm.command("worldsize.train.worker"))
            patched.setenv(SOCKET, warm.socket)
        yield
