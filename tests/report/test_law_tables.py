from __future__ import annotations

import pytest

from tests.report.filled import FILLED, ONE_CURVE, TWO_COUNTS, filled
from tests.report.page import Page
from worldsize.report import html, law_tables, what_if_table
from worldsize.report.curves import curve_label, measured_cells
from worldsize.report.quality_tables import lost_time
from worldsize.scaling.interval import Interval


def test_weights_of_the_evidence_sum_to_one() -> None:
    assert ONE_CURVE.fits
    table = law_tables.evidence(ONE_CURVE.fits)
    weights = next(column for column in table.columns if column.key == "akaike_weight")
    assert sum(value.raw or 0 for value in weights.values) == pytest.approx(1)
    assert any("Amdahl 1967" in note for note in table.notes)


def test_doublings_carry_their_intervals_and_doubts() -> None:
    assert TWO_COUNTS.fits
    table = law_tables.doublings(TWO_COUNTS.fits)
    assert table
    assert {value.text for value in table.columns[-1].values} == {"no"}
    assert any("measure a third" in note for note in table.notes)
    predictions = TWO_COUNTS.fits.outlook[0].doublings
    assert [value.raw for value in table.columns[2].values] == [p.step_time_s.value for p in predictions]


def test_parameters_that_all_curves_share_stand_once() -> None:
    assert FILLED.fits
    chosen = next(fit for fit in FILLED.fits.fits if fit.law == FILLED.fits.best)
    rows = law_tables.parameters(FILLED.fits).rows
    shared = all(curve.parameters == chosen.curves[0].parameters for curve in chosen.curves)
    num_each = len(chosen.curves[0].parameters)
    assert len(rows) == (num_each if shared else num_each * len(chosen.curves))


def test_an_infinite_parameter_is_no_limit() -> None:
    value = law_tables.value(Interval(value=None, low=3.0, high=None), law_tables.Unit(1, ""), "")
    assert (value.text, value.interval) == ("no limit", "3–∞")


def test_what_ifs_say_what_was_asked_and_what_they_assume() -> None:
    table = what_if_table.what_ifs(FILLED.what_ifs)
    heads = [column.title for column in table.columns]
    assert heads[:5] == ["devices", "global batch", "micro batches", "gradients", "link"]
    assert "0.5× the bytes" in [value.text for value in table.columns[3].values]
    times = next(column for column in table.columns if column.key == "step_time_s")
    assert [v.raw for v in times.values] == [a.step_time_s.value for a in FILLED.what_ifs if a.step_time_s]
    assert len(set(what_if_table.assumptions(FILLED.what_ifs))) == len(what_if_table.assumptions(FILLED.what_ifs))


def test_parts_of_the_table_sum_to_what_was_lost() -> None:
    table = lost_time(FILLED)
    assert table
    for row in table.rows:
        values = {column.key: value.raw or 0.0 for column, value in row}
        parts = [v for k, v in values.items() if k not in {"ideal_s", "lost_s", "world_size", "global_batch"}]
        assert sum(parts) == pytest.approx(values["lost_s"], rel=1e-9)


def test_curves_are_told_by_batch_and_settings() -> None:
    assert curve_label("strong", "train.precision=bf16, model.num_layers=4", 64.0) == (
        "global batch 64, precision=bf16, num_layers=4"
    )
    assert curve_label("weak", "", 32.0) == "per-device batch 32"
    assert [cell.name for cell in measured_cells(FILLED, "", 64.0)] == ["n1-b64", "n2-b64", "n4-b64"]
    assert measured_cells(FILLED, "train.precision=bf16", 64.0) == []


def test_the_page_argues_with_laws_and_what_ifs() -> None:
    text = html.render(FILLED, None)
    heads = [f'id="{key}"' for key in ("next", "what-if", "evidence", "laws", "problems", "method")]
    places = [text.index(head) for head in heads]
    assert places == sorted(places)
    words = Page(text).words
    assert "believable to" in words
    assert "What these answers assume" in words
    for title in ("Lost time", "Batch against efficiency", "Compute against communication", "Scaling laws"):
        assert f". {title}." in words


def test_laws_that_were_not_fitted_say_why() -> None:
    study = filled((1, 2), (64,), what_ifs=[])
    words = Page(html.render(study, None)).words
    assert "Laws that were not fitted" in words
    assert "too few points for" in words.lower()
    assert "What would happen" not in words
