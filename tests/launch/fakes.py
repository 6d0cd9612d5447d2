"""Programs that stand in for an engine's own: each appends its words to calls.log and answers what a test laid down."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest


class Programs:
    """A folder at the front of PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.log = folder / "calls.log"
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def answer(self, program: str, said: str = "", *, code: int = 0, script: str = "") -> None:
        """Make `program` print `said` and exit with `code`, after running `script`."""
        path = self.folder / program
        path.write_text(
            f'#!/bin/bash\necho "{program} $*" >> {shlex.quote(str(self.log))}\n{script}\n'
            f"printf '%s' {shlex.quote(said)}\nexit {code}\n"
        )
        path.chmod(0o755)

    def calls(self, program: str) -> list[str]:
        """Return the words that `program` was called with, call by call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]
