from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.page import Page
from tests.study.synthetic import make_run, make_study
from worldsize.cli.report import report
from worldsize.errors import UserError
from worldsize.study.records import StudyResult


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return make_study(folder, world_sizes=(1, 2), faults={"n2-b64": {"config": {"train.precision": "bf16"}}})


def test_a_study_becomes_one_page_in_its_folder(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report([study])
    page = Page((study / "report.html").read_text(encoding="utf-8"))
    assert "Figure 9. Ranks." in page.words
    assert "refused" in page.words
    out, err = capsys.readouterr()
    assert out == ""
    assert str(study / "report.html") in err


def test_json_is_the_result_and_nothing_else(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report([study], json_=True, title="mine")
    out = capsys.readouterr().out
    result = StudyResult.model_validate_json(out)
    assert result.title == "mine"
    assert [cell.name for cell in result.cells] == ["n1-b64", "n2-b64"]
    assert json.loads(out)["cells"][1]["speedup"] is None


def test_an_override_prints_the_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report([study], json_=True, override=True)
    cell = StudyResult.model_validate_json(capsys.readouterr().out).cells[1]
    assert cell.overridden
    assert cell.speedup is not None


def test_runs_without_a_study_are_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run{n}", world_size=n) for n in (1, 2)]
    report(runs, out=tmp_path / "runs.html", title="two runs")
    page = Page((tmp_path / "runs.html").read_text(encoding="utf-8"))
    assert "two runs" in page.words
    assert "Figure 1. Speedup." in page.words


@pytest.mark.parametrize(("format_", "begin"), [("markdown", "# "), ("csv", "cell,"), ("json", "{")])
def test_text_formats_go_to_standard_output(
    study: Path, capsys: pytest.CaptureFixture[str], format_: str, begin: str
) -> None:
    report([study], format_=format_)
    assert capsys.readouterr().out.startswith(begin)


def test_errors_say_what_to_give(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist\. Give the folder of a study"):
        report([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="holds neither a study nor a run"):
        report([tmp_path])
    with pytest.raises(UserError, match="is a study, and comes alone"):
        report([study, study / "runs" / "n1-b64" / "r1"])
    with pytest.raises(UserError, match=r"unknown format 'htm'. Did you mean 'html'\?"):
        report([study], format_="htm")
    with pytest.raises(UserError, match=r"cannot write .*Give another file with --out"):
        report([study], out=tmp_path / "no" / "folder" / "x.html")
    assert list(tmp_path.iterdir()) == []


def test_reports_need_no_torch(study: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from worldsize.cli.report import report\n"
        f"report([Path({str(study)!r})], out=Path({str(study / 'bare.html')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert (study / "bare.html").stat().st_size > 50_000
