"""Keeps what became of every test of the suite, for the table in the docs: $WORLDSIZE_CONFORMANCE names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

OUTCOMES: list[dict[str, object]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "tests/conformance/" not in report.nodeid or (report.when != "call" and report.passed):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else None
    OUTCOMES.append({"test": report.nodeid, "outcome": report.outcome, "reason": reason})


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = os.environ.get("WORLDSIZE_CONFORMANCE")
    if path:
        Path(path).write_text(json.dumps(OUTCOMES))
