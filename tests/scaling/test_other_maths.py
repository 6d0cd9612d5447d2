"""A study of a strategy that trains otherwise: marked, compared by loss, and not accused of what it means to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.study.synthetic import make_study
from worldsize.report.table import table
from worldsize.study.records import CellResult, StudyResult
from worldsize.study.results import analyse

EVERY = 5


def edit(folder: Path, **changes: Any) -> None:
    """Make the runs on two devices local_sgd's, with the given changes to their results."""
    for path in (folder / "runs" / "n2-b64").glob("r*/result.json"):
        result = json.loads(path.read_text()) | {"strategy": "local_sgd"} | changes
        path.write_text(json.dumps(result))
        record = json.loads((path.parent / "run.json").read_text())
        record["strategy"] = "local_sgd"
        record["config"]["parallel"] |= {"strategy": "local_sgd", "local_steps": EVERY}
        (path.parent / "run.json").write_text(json.dumps(record))


def study(folder: Path, **changes: Any) -> tuple[StudyResult, CellResult]:
    make_study(folder)
    edit(folder, **changes)
    result = analyse(folder)
    return result, next(cell for cell in result.cells if cell.name == "n2-b64")


def other_losses(folder: Path) -> list[float]:
    """Losses that fall more slowly than the baseline's: a tenth higher throughout."""
    make_study(folder)
    result = json.loads(next((folder / "runs" / "n2-b64").glob("r*/result.json")).read_text())
    return [1.1 * loss for loss in result["losses"]]


@pytest.fixture
def losses(tmp_path: Path) -> list[float]:
    return other_losses(tmp_path / "plain")


def test_a_speedup_is_marked_and_the_loss_stands_beside_it(tmp_path: Path, losses: list[float]) -> None:
    result, cell = study(tmp_path / "study", losses=losses)
    assert [(problem.rule, problem.severity) for problem in cell.problems] == [("other-maths", "warns")]
    assert cell.other_maths
    assert cell.speedup is not None
    assert result.verdict.headline.startswith("Other maths, compare by loss: ")
    assert "for the same work" not in result.verdict.headline
    said = " ".join(result.verdict.evidence)
    assert "Loss at equal tokens" in said
    assert "Time to a loss of" in said
    assert "Same samples, other maths" in said
    assert cell.equal_tokens is not None
    baseline = next(each for each in result.cells if each.is_baseline)
    assert baseline.equal_tokens is not None
    assert cell.equal_tokens.loss > baseline.equal_tokens.loss


def test_weights_may_differ_between_averages_but_not_after_one(tmp_path: Path, losses: list[float]) -> None:
    apart = {"by_rank": ["a" * 16, "b" * 16]}
    _, between = study(tmp_path / "between", losses=losses, checksums=[{"step": 7, **apart}])
    assert "ranks-part" not in {problem.rule for problem in between.problems}
    _, after = study(tmp_path / "after", losses=losses, checksums=[{"step": 10, **apart}])
    assert "ranks-part" in {problem.rule for problem in after.problems}


def test_the_same_losses_under_ddp_are_refused(tmp_path: Path, losses: list[float]) -> None:
    _, cell = study(tmp_path / "study", losses=losses, strategy="ddp")
    assert "different-loss" in {problem.rule for problem in cell.problems}
    assert not cell.other_maths
    assert cell.speedup is None


def test_the_terminal_marks_it(tmp_path: Path, losses: list[float]) -> None:
    from io import StringIO

    from rich.console import Console

    result, _ = study(tmp_path / "study", losses=losses)
    out = StringIO()
    Console(file=out, width=200).print(table(result))
    assert "(‡)" in out.getvalue()
    assert "other maths" in out.getvalue()
