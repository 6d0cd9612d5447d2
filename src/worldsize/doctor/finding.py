"""What a check says: how it stands, what was found, and how to mend it. Torch-free."""

from __future__ import annotations

import subprocess
from typing import Literal

from pydantic import Field

from worldsize.records import Record

Status = Literal["ok", "warn", "fail", "none"]


class Finding(Record):
    """One line of `worldsize doctor`."""

    check: str
    status: Status = Field(
        description="ok; warn: runs, but slower or with doubtful figures; fail: will not run; "
        "none: not here, or cannot be known"
    )
    found: str = Field(description="what was found, with figures")
    fix: str | None = Field(None, description="what to do; None where nothing is wrong")


class Examination(Record):
    """What `worldsize doctor --json` prints."""

    findings: list[Finding]

    @property
    def failed(self) -> bool:
        return any(finding.status == "fail" for finding in self.findings)


def ok(check: str, found: str) -> Finding:
    return Finding(check=check, status="ok", found=found)


def warn(check: str, found: str, fix: str) -> Finding:
    return Finding(check=check, status="warn", found=found, fix=fix)


def fail(check: str, found: str, fix: str) -> Finding:
    return Finding(check=check, status="fail", found=found, fix=fix)


def none(check: str, found: str) -> Finding:
    return Finding(check=check, status="none", found=found)


def output_of(*command: str) -> str | None:
    """Return what a program printed, or None where it is not here, fails or does not end within some seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
