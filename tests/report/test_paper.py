"""LaTeX and PDF: nothing that a study holds can break them, and every format sets the same document."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from tests.report.filled import FILLED, ONE_CURVE
from tests.report.page import Page
from tests.report.studies import STUDIES, make_cell, make_study, refused
from worldsize.errors import UserError
from worldsize.records import Problem
from worldsize.report import html, latex, paper, pdf
from worldsize.report.cost import Request, plan
from worldsize.report.document import Document
from worldsize.report.markdown import markdown
from worldsize.report.proposal import Measurement, proposal_document
from worldsize.report.study_document import study_document
from worldsize.study.records import StudyResult, Verdict

NASTY = "\\input{x} $a_1^2$ 100% & #1 ~ <b> | {\"'} µ × 2²–3 Σ é 中 😀 \x00 \\end{document}"


def proposal(study: StudyResult, **request: int) -> Document:
    return proposal_document(Measurement(study, None), None, plan(study, Request(**request)))


def hostile() -> Document:
    problem = Problem(rule=NASTY, severity="blocks", message=NASTY)
    study = make_study(
        make_cell(1, name=NASTY, vary={NASTY: NASTY}, strategy=NASTY),
        refused(2, name="x", vary={NASTY: NASTY}, baseline=NASTY).model_copy(update={"problems": [problem]}),
        title=NASTY,
        verdict=Verdict(headline=NASTY, why=[NASTY], next=[NASTY], evidence=[NASTY]),
        config={"model": {NASTY: NASTY}},
        command=[NASTY],
    )
    return study_document(study, None)


DOCUMENTS = {
    "filled": lambda: study_document(FILLED, None),
    "many cells": lambda: study_document(STUDIES["many cells"], None),
    "no cell": lambda: study_document(STUDIES["no cell"], None),
    "hostile": hostile,
    "proposal": lambda: proposal(ONE_CURVE, devices=16, tokens=10**9),
    "bare proposal": lambda: proposal(STUDIES["failures only"], devices=2),
}


@given(st.text(max_size=60))
def test_escaped_text_commands_nothing(text: str) -> None:
    done = latex.escape(text)
    for known in sorted(set(latex._SIGNS.values()), key=len, reverse=True):
        done = done.replace(known, "")
    assert not re.search(r"[\\{}$&#%_^~]", done)
    assert all(ord(sign) < 0x180 for sign in done)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_latex_source_is_whole(name: str) -> None:
    document = DOCUMENTS[name]()
    source = latex.latex(document)
    begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", source) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    assert source.count("\\end{document}") == 1
    assert set(re.findall(r"figures/(\w+)\.pdf", source)) == {plate.key for plate in document.plates}
    for line in source.splitlines():
        assert line.replace(r"\{", "").replace(r"\}", "").count("{") >= 0
    text = source.replace(r"\{", "").replace(r"\}", "")
    assert text.count("{") == text.count("}")


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, pdf.ENGINES)), reason="needs a TeX installation")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_latex_compiles(tmp_path: Path, name: str) -> None:
    engine = next(engine for engine in pdf.ENGINES if shutil.which(engine))
    assert pdf.compile_latex(DOCUMENTS[name](), tmp_path / "x.pdf", engine) is None
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_typst_compiles_when_there_is_no_tex(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typst")
    monkeypatch.setenv("PATH", "")
    assert pdf.write_pdf(DOCUMENTS[name](), tmp_path / "x.pdf") == "typst"
    data = (tmp_path / "x.pdf").read_bytes()
    assert data.startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs pdftotext")
def test_the_pdf_says_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("typst")
    from worldsize.report.typst_pdf import compile_typst

    compile_typst(study_document(FILLED, None), tmp_path / "x.pdf")
    done = subprocess.run(["pdftotext", "-layout", tmp_path / "x.pdf", "-"], capture_output=True, text=True, check=True)
    assert "2 devices are 1.72× as fast as one" in done.stdout
    assert "S(N) = T(baseline) / T(N)" in done.stdout
    for number in range(1, len(study_document(FILLED, None).plates) + 1):
        assert f"Figure {number}." in done.stdout


def test_without_tex_and_typst_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(pdf, "has_typst", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'worldsize\[pdf\]'.*--format latex"):
        pdf.write_pdf(study_document(STUDIES["one cell"], None), tmp_path / "x.pdf")
    with pytest.raises(UserError, match="there is no folder"):
        pdf.write_pdf(study_document(STUDIES["one cell"], None), tmp_path / "no" / "x.pdf")


def test_every_figure_in_every_format_and_none_blank(tmp_path: Path) -> None:
    document = study_document(FILLED, None)
    paper.draw_figures(document, tmp_path, ("svg", "pdf", "png"))
    keys = {plate.key for plate in document.plates}
    assert {"laws", "lost_time", "batch_efficiency", "compute_communication", "speedup"} <= keys
    assert {path.name for path in tmp_path.iterdir()} == {f"{k}.{s}" for k in keys for s in ("svg", "pdf", "png")}
    for key in keys:
        pixels = imread(tmp_path / f"{key}.png")[..., :3]
        inked = np.abs(pixels - pixels[0, 0]).max(axis=-1) > 0.1
        assert 0.003 < inked.mean() < 0.6, key
        rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
        assert np.ptp(rows) > 0.7 * inked.shape[0], key
        assert np.ptp(columns) > 0.7 * inked.shape[1], key
        assert (tmp_path / f"{key}.svg").read_text().count("<path") > 5
        assert len((tmp_path / f"{key}.pdf").read_bytes()) > 5000


def test_all_formats_tell_the_same(tmp_path: Path) -> None:
    document = proposal(ONE_CURVE, devices=16, tokens=10**9)
    headline = document.headline
    assert re.fullmatch(r"[\d.]+ device-hours \([\d.–]+\) on 16 devices at .* efficiency, predicted.*", headline)
    assert headline.replace("–", "") in Page(html.page(document)).words.translate(
        {0x2060: None, 0xA0: " ", 0x2013: None}
    )
    assert headline in markdown(document).replace("\\", "")
    assert paper.tree(document)["headline"] == headline
    assert latex.escape(headline) in latex.latex(document)
    json.dumps(paper.tree(document))


def test_a_proposal_never_extrapolates_silently() -> None:
    for devices in (4, 12, 16, 64, 1000):
        words = markdown(proposal(ONE_CURVE, devices=devices, steps=1000))
        said = {4: "measured on 4 devices in this study", 12: "between 8 \\(measured\\) and 16", 1000: "lie beyond"}
        assert said.get(devices, "predicted, by the scaling laws").replace("\\", "") in words.replace("\\", "")
        assert "believable to" in words
        assert "Not measured. To add it, run worldsize study with --scaling weak" in words
