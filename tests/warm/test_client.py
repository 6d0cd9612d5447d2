"""A forked process is to who started it what a new one would be."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.launch.test_local import SMALL
from tests.warm.client import SOCKET
from tests.warm.start import Warm

LONGEST_S = 120


def typed(warm: Warm | None, *words: str) -> subprocess.Popen[str]:
    if warm is None:
        pytest.skip("only Linux has what this needs")
    return subprocess.Popen(
        [*warm.command("worldsize"), *words], env={**os.environ, SOCKET: warm.socket}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_it_says_and_returns_what_the_command_does(warm: Warm | None) -> None:
    done = typed(warm, "config", "model.d_modl=3")
    said, errors = done.communicate(timeout=LONGEST_S)
    assert (done.returncode, said) == (2, "")
    assert "model.d_model" in errors
    done = typed(warm, "--version")
    assert done.communicate(timeout=LONGEST_S)[0].startswith("worldsize ")
    assert done.returncode == 0


@pytest.fixture
def running(warm: Warm | None, tmp_path: Path) -> subprocess.Popen[str]:
    """A run without end on two ranks, begun in `tmp_path`."""
    process = typed(warm, "train", *SMALL, "train.steps=100000", "--nproc", "2", "--out", str(tmp_path))
    until_s = time.monotonic() + LONGEST_S
    while len(writers(tmp_path)) < 3:  # launcher and ranks
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.05)
    return process


def writers(folder: Path) -> list[int]:
    """Return the pids of the processes that have a file of the folder open."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(Path(file.path).is_relative_to(folder) for file in process.open_files()):
                found.append(process.pid)
    return found


def wait_until_ended(folder: Path) -> None:
    until_s = time.monotonic() + LONGEST_S
    while left := writers(folder):
        assert time.monotonic() < until_s, f"{left} go on"
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_reaches_it(running: subprocess.Popen[str], tmp_path: Path) -> None:
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=LONGEST_S)
    assert running.returncode == 130
    assert "Traceback" not in errors
    wait_until_ended(tmp_path)


@pytest.mark.slow
def test_it_ends_with_who_started_it(running: subprocess.Popen[str], tmp_path: Path) -> None:
    running.kill()
    running.communicate(timeout=LONGEST_S)
    wait_until_ended(tmp_path)
