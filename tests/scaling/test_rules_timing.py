"""Rules about the clock, each with its fault and what lies just beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.study.synthetic import make_study
from worldsize.scaling.rules_timing import slow_start
from worldsize.study.results import analyse


def named(folder: Path, cell: str = "n2-b64") -> dict[str, str]:
    found = next(each for each in analyse(folder).cells if each.name == cell)
    return {problem.rule: problem.message for problem in found.problems}


def edit(folder: Path, **changes: Any) -> None:
    for path in (folder / "runs" / "n2-b64").glob("r*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("steps", "slow"),
    [
        ([3.0, 1, 1, 1, 1, 1], 1),
        ([4.0, 2, 1, 1, 1, 1, 1], 2),
        ([1.5, 1, 1, 1, 1, 1], None),
        ([1.6, 1, 1, 1, 1, 1.7], None),
        ([3.0, 1, 1], None),
        ([], None),
    ],
)
def test_slow_first_steps(steps: list[float], slow: int | None) -> None:
    start = slow_start(steps)
    assert (start.num_slow if start else None) == slow


def test_a_timer_that_misses_most_of_the_step(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    edit(folder, wall_s=10.0)
    message = named(folder)["timer-misses-time"]
    assert re.match(
        r"25 steps sum to 1\.\d\d s, the wall time is 10\.0 s: the timer is around the wrong thing", message
    )
    assert analyse(folder).cells[1].speedup is None
    edit(folder, wall_s=1.0)
    assert "more than there is" in named(folder)["timer-misses-time"]


def test_evaluations_explain_wall_time(tmp_path: Path) -> None:
    """Evaluating three times the trained tokens takes about as long as training: 1.6 s of steps in 3.4 s are sound."""
    folder = make_study(tmp_path)
    edit(folder, wall_s=4.0)
    assert "timer-misses-time" in named(folder)
    edit(folder, evaluations=[{"step": 25, "loss": 3.0, "num_tokens": 3 * 25 * 64 * 128}])
    assert named(folder) == {}


def test_a_first_step_that_compiles_for_long_is_no_fault_of_the_timer(tmp_path: Path) -> None:
    """The median step knows nothing of it; the rows do."""
    folder = make_study(tmp_path)
    for path in (folder / "runs" / "n2-b64").glob("r*/steps.rank*.jsonl"):
        first, *rest = path.read_text().splitlines()
        path.write_text("\n".join([json.dumps(json.loads(first) | {"wall_s": 20.0}), *rest]) + "\n")
    edit(folder, wall_s=22.0)
    assert named(folder) == {}


def test_without_step_rows_the_timer_is_not_judged(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    edit(folder, wall_s=10.0)
    for path in folder.glob("runs/*/r*/steps.rank*.jsonl"):
        path.unlink()
    assert named(folder) == {}


def test_warmup_that_was_counted(tmp_path: Path) -> None:
    slow = make_study(tmp_path / "slow", faults={"n2-b64": {"num_warmup_steps": 0}})
    assert "against a median of" in named(slow)["missing-warmup"]
    assert named(make_study(tmp_path / "one", faults={"n2-b64": {"num_warmup_steps": 1}})) == {}


def test_communication_on_one_device(tmp_path: Path) -> None:
    phases = {"compute_s": 0.1, "exposed_communication_s": 0.005, "data_wait_s": 0.0, "host_to_device_s": 0.0,
              "bubble_s": 0.0, "optimizer_s": 0.004, "other_s": 0.0}  # fmt: skip
    folder = make_study(tmp_path, faults={"n1-b64": {"phases": phases}})
    assert "That is not communication" in named(folder, "n1-b64")["communication-on-one-device"]
    assert "communication-on-one-device" not in named(folder)
