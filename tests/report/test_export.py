from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.studies import STUDIES, make_cell, make_study
from worldsize.report import export
from worldsize.report.markdown import markdown
from worldsize.report.study_document import study_document
from worldsize.study.records import StudyResult


def text_of(study: StudyResult) -> str:
    return markdown(study_document(study, None))


@pytest.mark.parametrize("name", STUDIES)
def test_csv_holds_the_records_in_full(name: str) -> None:
    study = STUDIES[name]
    rows = list(csv.DictReader(io.StringIO(export.as_csv(study))))
    assert [row["cell"] for row in rows] == [cell.name for cell in study.cells]
    for row, cell in zip(rows, study.cells, strict=True):
        for key in ("step_time_s", "tokens_per_s", "speedup", "efficiency"):
            measured = getattr(cell, key)
            assert row[key] == ("" if measured is None else repr(measured.median))
        for phase, seconds in cell.phases_s.items():
            assert float(row[f"phase_{phase}"]) == seconds
        assert cell.speedup or cell.is_baseline or row["notes"]


@pytest.mark.parametrize("name", STUDIES)
def test_markdown_tables_are_square(name: str) -> None:
    lines = text_of(STUDIES[name]).splitlines()
    widths: list[int] = []
    for line in lines:
        if line.startswith("|"):
            widths.append(line.replace("\\|", "").count("|"))
        elif widths:
            assert len(set(widths)) == 1
            assert len(widths) >= 3
            widths = []


def test_markdown_keeps_the_page_order_and_the_marks() -> None:
    text = text_of(STUDIES["refused"])
    heads = [
        "# 2 devices",
        "## Why",
        "## What to try next",
        "## Evidence",
        "## Problems",
        "## Method",
        "## Environment",
    ]
    places = [text.index(head) for head in heads]
    assert places == sorted(places)
    assert "| refused (" in text
    assert "unequal-work (blocks)" in text
    assert "†" in text_of(STUDIES["overridden"])


@given(st.text(max_size=40))
def test_hostile_text_cannot_break_a_table_or_become_html(text: str) -> None:
    nasty = f"<img onerror=x>|\n# head `{text}"
    study = make_study(make_cell(1, vary={nasty: nasty}), make_cell(2, vary={nasty: 1}), title=nasty)
    out = text_of(study)
    assert "<img" not in out.replace("\\<", "")
    assert not any(line.startswith("# head") for line in out.splitlines())
    rows = list(csv.DictReader(io.StringIO(export.as_csv(study))))
    assert len(rows) == 2
