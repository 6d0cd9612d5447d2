from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audit.published import EXAMPLES
from tests.study.synthetic import make_study
from worldsize.__main__ import main
from worldsize.audit.records import Audit
from worldsize.cli.audit import audit
from worldsize.errors import UserError

B = str(EXAMPLES / "b-every-rank-all-data.csv")


def test_text_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    audit([B])
    out, err = capsys.readouterr()
    assert out.startswith("Of 2 comparisons 0 stand, 2 do not stand.\n")
    assert "would be: 3.20x by samples processed" in out
    assert err == ""


def test_json_is_the_record_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    audit([B], json_=True)
    found = Audit.model_validate_json(capsys.readouterr().out)
    assert [round(comparison.corrections[0].value, 2) for comparison in found.comparisons] == [3.20, 1.85]


@pytest.mark.parametrize(
    ("name", "begin"), [("a.html", "<!DOCTYPE html>"), ("a.md", "# Of 2"), ("a.txt", "Of 2"), ("a.json", "{")]
)
def test_the_format_follows_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, begin: str) -> None:
    audit([B], out=tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(begin)
    out, err = capsys.readouterr()
    assert (out, err.startswith(f"wrote {tmp_path / name}")) == ("", True)


def test_a_format_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    audit([B], format_="markdown")
    assert capsys.readouterr().out.startswith("# Of 2")
    with pytest.raises(UserError, match=r"unknown format 'htm'. Did you mean 'html'\?"):
        audit([B], format_="htm")


def test_studies_and_numbers_in_one_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_study(tmp_path)
    assert main(["audit", str(folder), B, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [comparison["source"] for comparison in found["comparisons"]] == [str(folder), B, B]


def test_bad_input_is_told_on_both_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("devices,time_s\n1,fast\n")
    assert main(["audit", str(tmp_path / "x.csv"), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == 2
    assert err == f"error: {json.loads(out)['error']}\n"
    assert "line 2, column 'time_s': 'fast' is no number" in err


def test_audits_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from worldsize.__main__ import main\n"
        f"sys.exit(main(['audit', {B!r}, '--out', {str(tmp_path / 'a.html')!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert (tmp_path / "a.html").stat().st_size > 5_000
