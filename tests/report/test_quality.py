"""The section on quality: a table of what was measured on held-out data, and the confusion matrix."""

from __future__ import annotations

import re

import pytest

from tests.report.studies import make_cell, make_study
from worldsize.measure.statistics import measured
from worldsize.report import figures, quality_tables
from worldsize.report.cells import classified
from worldsize.report.html import render
from worldsize.report.svg import inline
from worldsize.study.records import HeldOut

CLASSES = HeldOut(
    loss=measured([0.31, 0.33]),
    accuracy=measured([0.8, 0.9]),
    macro_f1=measured([0.75, 0.85]),
    labels=["World", "Sports"],
    confusion=[[18, 2], [4, 16]],
)
TRANSLATED = HeldOut(
    loss=measured([1.9]),
    perplexity=measured([6.69]),
    bleu=measured([33.25]),
    chrf=measured([55.5]),
    signatures=["nrefs:1|case:mixed", "nrefs:1|nc:6"],
    examples=[["Zwei Hunde.", "Two dogs.", "Two dogs run."]],
)


def test_a_classifiers_cells_stand_in_a_table_and_a_matrix() -> None:
    study = make_study(make_cell(1, held_out=CLASSES), make_cell(2, held_out=CLASSES))
    table = quality_tables.held_out(study)
    assert table is not None
    assert [column.key for column in table.columns[2:]] == ["loss", "accuracy", "macro_f1"]
    accuracy = next(column for column in table.columns if column.key == "accuracy")
    assert [value.raw for value in accuracy.values] == pytest.approx([0.85, 0.85])
    assert accuracy.unit == "%"
    cell = classified(study)
    assert cell is not None
    assert cell.world_size == 2
    [axes] = figures.confusion(study).axes
    fields = {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)): p for p in axes.patches}  # type: ignore[attr-defined]
    assert fields.keys() == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert [text.get_text() for text in axes.texts] == ["90.0", "10.0", "20.0", "80.0"]
    assert "World taken for Sports: 2 of 20 (10.0 %)" in inline(figures.confusion(study), "key", "what it shows")
    page = render(study, None)
    assert re.search(r"World: 90.0 % found; Sports: 80.0 % found", page)
    assert page.index("Evidence") < page.index(">Quality<") < page.index("Problems and warnings")


def test_translations_stand_with_their_signatures_and_examples() -> None:
    study = make_study(make_cell(1, held_out=TRANSLATED))
    page = render(study, None)
    for said in ("33.25", "nrefs:1|case:mixed; nrefs:1|nc:6", "Two dogs. (reference: Two dogs run.)"):
        assert said in page
    assert "Confusion matrix" not in page


def test_a_study_that_was_not_evaluated_has_no_such_section() -> None:
    study = make_study(make_cell(1))
    assert quality_tables.held_out(study) is None
    assert ">Quality<" not in render(study, None)
