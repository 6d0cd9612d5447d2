"""A few of the kills of benchmarks/kills.py: `python -m benchmarks.kills` does thirty."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.kills import run_kills, table

pytestmark = pytest.mark.slow


def test_ranks_killed_under_torchrun_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run_kills(tmp_path, num_kills=3, num_steps=200, seed=0)
    log = "".join(path.read_text(errors="replace") for path in tmp_path.glob("killed*.log"))
    assert figures["num_kills"] == 3
    assert figures["runs_lost"] == 0, log
    assert figures["damaged_checkpoints"] == [], log
    assert figures["runs_unlike_undisturbed"] == 0, figures
    assert "kill 3: rank " in capsys.readouterr().err
    assert "lost" in table(figures)
