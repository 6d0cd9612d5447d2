"""The shape that Slurm, Modal and SkyPilot share: render, submit, poll, collect. Queueing stays theirs. Torch-free."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from worldsize.errors import RunError, UserError
from worldsize.launch.jobs import Job
from worldsize.launch.records import JobRecord
from worldsize.study.grid import Planned


@dataclass(frozen=True)
class Status:
    """What an engine says of one job."""

    phase: Literal["waiting", "running", "ended"]
    nodes: str | None = None
    reason: str | None = None
    num_restarts: int = 0


class Engine(Protocol):
    """One way to reach machines. It holds the study's folder; the launcher's own process makes every call."""

    def render(self, job: Job, runs: Sequence[Planned]) -> str:
        """Return the text that describes the job: what --dry-run shows."""

    def submit(self, job: Job, runs: Sequence[Planned]) -> str:
        """Hand the job to the engine and return its id there. Raises RunError when the engine refuses."""

    def poll(self, records: Sequence[JobRecord]) -> dict[str, Status]:
        """Return job name → status; a job that the engine does not know any more has ended."""

    def collect(self, record: JobRecord) -> None:
        """Bring an ended job's run folders into the study's folder, where they are not there already."""

    def explain(self, record: JobRecord) -> str:
        """Return why an ended job left runs unfinished: the node and the log's last lines, where they are known."""


def ask(command: Sequence[str], timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run an engine's own program and return what it said. Raises RunError when it is missing or does not answer."""
    if shutil.which(command[0]) is None:
        raise UserError(f"there is no {command[0]!r} on this machine. Type the command where it is installed.")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise RunError(f"{command[0]} did not answer within {timeout_s:g} s. The same command tries again.") from None
