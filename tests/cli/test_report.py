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


def test_latex_is_a_folder_with_its_figures(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report([study], format_="latex", out=tmp_path / "paper")
    assert (tmp_path / "paper" / "report.tex").read_text().startswith("% Compiles with")
    assert (tmp_path / "paper" / "figures" / "step_samples.pdf").is_file()
    assert "figures beside it" in capsys.readouterr().err


def test_figures_go_into_a_folder_beside_the_report(study: Path, tmp_path: Path) -> None:
    report([study], figures=tmp_path / "figures", out=tmp_path / "page.html", override=True)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    for key in ("speedup", "efficiency", "phases", "step_samples", "per_rank", "rank_phases", "loss_by_time"):
        assert {f"{key}.svg", f"{key}.pdf", f"{key}.png"} <= names


def test_a_proposal_reads_both_kinds_of_scaling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strong = make_study(tmp_path / "strong", world_sizes=(1, 2))
    weak = make_study(tmp_path / "weak", world_sizes=(1, 2), scaling="weak")
    report([strong, weak], template="proposal", devices=2, steps=1000, format_="markdown")
    text = capsys.readouterr().out
    assert text.startswith("# 0.03382 device-hours (0.033")  # 1000 steps of 0.061 s on 2 devices, with noise
    assert "measured on 2 devices in this study; nothing is extrapolated" in text
    assert "## Weak scaling" in text
    assert "Not measured. To add" not in text
    report([strong], template="proposal", devices=2, steps=1000, json_=True)
    twin = json.loads(capsys.readouterr().out)
    assert twin["plan"]["costs"][-1]["num_steps"] == 1000
    with pytest.raises(UserError, match="are both strong scaling"):
        report([strong, strong], template="proposal")


def test_a_grid_of_batches_is_weak_scaling_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = make_study(tmp_path / "grid", world_sizes=(1, 2), global_batches=(32, 64))
    report([grid], template="proposal", devices=2, format_="json")
    twin = json.loads(capsys.readouterr().out)
    weak = {cell["name"]: cell for cell in twin["other_scaling"]["cells"]}
    assert set(weak) == {"n1-b32", "n2-b64"}
    assert weak["n2-b64"]["efficiency"]["median"] > 0.5


def test_options_of_a_proposal_need_its_template(study: Path) -> None:
    with pytest.raises(UserError, match="Add --template proposal"):
        report([study], devices=2)
    with pytest.raises(UserError, match=r"unknown template 'grant'. Allowed: proposal, study"):
        report([study], template="grant")
    with pytest.raises(UserError, match="PDF and LaTeX are no text"):
        report([study], format_="pdf", out=Path("-"))


@pytest.mark.slow
def test_a_hundred_runs_take_less_than_five_seconds(tmp_path: Path) -> None:
    folder = make_study(
        tmp_path / "hundred", world_sizes=(1, 2, 4, 8, 16), global_batches=(64, 128, 256, 512), repeats=5
    )
    code = (
        "import resource, sys; from worldsize.__main__ import main; sys.argv[1:] = ['report', sys.argv[1]]\n"
        "try: main()\n"
        "finally: print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    assert (folder / "report.html").stat().st_size > 500_000
    assert float(done.stdout.split()[-1]) < 5  # seconds of processor time: the machine may be busy


def test_reports_need_no_torch(study: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from worldsize.cli.report import report\n"
        f"report([Path({str(study)!r})], out=Path({str(study / 'bare.html')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert (study / "bare.html").stat().st_size > 50_000
