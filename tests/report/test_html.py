from __future__ import annotations

import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.report.page import Page
from tests.report.studies import STUDIES, failed, make_cell, make_study, refused
from tests.study import synthetic
from worldsize.records import Origin, Problem
from worldsize.report import html, machine
from worldsize.report.paper import letter
from worldsize.study.records import RunFailure, StudyResult, Verdict

NETWORK = re.compile(r"(?:https?:)?//|@import|url\((?!#)", re.IGNORECASE)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: html.render(study, None) for name, study in STUDIES.items()}


@pytest.mark.parametrize("name", STUDIES)
def test_a_page_is_well_formed_and_asks_for_nothing(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert len(page.ids) == len(set(page.ids))
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        assert not any(key.startswith("on") for key in attributes)
        for key in ("href", "src", "xlink:href", "srcset"):
            link = attributes.get(key) or "#"
            assert link == "data:," or (link.startswith("#") and (link == "#" or link[1:] in page.ids)), link
    style = pages[name][pages[name].index("<style>") : pages[name].index("</style>")]
    assert not NETWORK.search(style)
    assert set(re.findall(r"url\(#([^)]+)\)", pages[name])) <= set(page.ids)


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_argues_in_order(pages: dict[str, str], name: str) -> None:
    text = pages[name]
    heads = ["<h1>", 'id="why"', 'id="next"', 'id="evidence"', 'id="problems"', 'id="method"', 'id="environment"']
    places = [text.index(head) for head in heads]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["two devices", "refused", "weak", "many cells"])
def test_tables_give_back_the_records(pages: dict[str, str], name: str) -> None:
    study = STUDIES[name]
    rows = [row for row in Page(pages[name]).tables[0] if row]
    assert len(rows) == len(study.cells)
    for row, cell in zip(rows, study.cells, strict=True):
        assert float(row["world_size:value"]) == cell.world_size
        assert float(row["global_batch:value"]) == cell.global_batch
        for key in ("step_time_s", "tokens_per_s", "speedup", "efficiency"):
            measured = getattr(cell, key)
            if measured is None:
                assert f"{key}:value" not in row
                assert re.match(r"not known|refused|baseline", row[key]), row[key]
                continue
            assert float(row[f"{key}:value"]) == measured.median
            factor = {"step_time_s": 1 if study.cells[-1].global_batch == 1024 else 1e3, "efficiency": 100}.get(key, 1)
            shown, ends = row[key].split(" ", 1)
            assert float(shown.replace(",", "")) == pytest.approx(measured.median * factor, rel=6e-3)
            low, high = (float(end.replace(",", "")) for end in ends.split("–"))
            assert (low, high) == pytest.approx((measured.low * factor, measured.high * factor), rel=6e-3)


def test_phases_in_the_table_sum_to_the_step(pages: dict[str, str]) -> None:
    rows = [row for row in Page(pages["two devices"]).tables[1] if row]
    for row in rows:
        parts = [float(text) for key, text in row.items() if re.fullmatch(r"\w+_s:value", key) and "sum" not in key]
        assert sum(parts) == pytest.approx(float(row["phases_sum_s:value"]), rel=1e-12)


def test_two_devices_show_every_figure_with_its_values_as_text(pages: dict[str, str]) -> None:
    text = pages["two devices"]
    assert text.count('<svg role="img"') == 9
    step_times = text[text.index('id="figure-3"') : text.index('id="figure-4"')]
    for cell in STUDIES["two devices"].cells:
        assert cell.step_time_s
        for sample in cell.step_time_s.samples:
            assert f"{1e3 * sample:.4g}" in step_times
    assert "2 devices, global batch 64" in step_times


def test_absence_says_why(pages: dict[str, str]) -> None:
    words = Page(pages["refused"]).words
    assert "Refused: because comparison refused by unequal-work (see Problems)." in words
    assert "none finished; runs/n8-b64/r1: rank 5 died at step 3: out of memory." in words
    assert "Not known: because the device's peak is not known." in words
    assert "Not known: because trace was not measured in this study." in words
    assert "refused: unequal-work" in words  # in the figure, beside a hollow mark
    assert "6,400 samples, the baseline 1,600" in words


def test_an_override_leaves_its_mark(pages: dict[str, str]) -> None:
    row = [row for row in Page(pages["overridden"]).tables[0] if row][1]
    assert "†" in row["speedup"]
    assert "†" in row["efficiency"]
    assert "†: refused, and printed by override." in Page(pages["overridden"]).words
    assert "†" not in pages["two devices"]


def test_weak_scaling_prints_no_speedup(pages: dict[str, str]) -> None:
    words = Page(pages["weak"]).words
    assert "Figure 1. Efficiency." in words
    assert "efficiency stands for speedup" in words


def test_the_method_follows_the_settings() -> None:
    study = STUDIES["two devices"]
    words = Page(html.render(study, None)).words
    assert "The first 7 steps of a run are tagged as warm-up" in words
    assert "Each cell that was measured has 3 repeats" in words
    study.config["measure"]["trace_steps"] = 0
    assert "By trace: not measured, trace_steps is 0." in Page(html.render(study, None)).words


def test_settings_tell_their_origins() -> None:
    found = machine.settings(
        {"model": {"d_model": 256, "num_layers": 4}}, {"model.d_model": Origin(value=256, source="override")}
    )
    assert [(s.key, s.value, s.source) for s in found] == [("model.d_model", "256", "override")]
    assert machine.settings({"model": {"d_model": 256}}, {})[0].source == "not recorded"


def test_runs_at_hand_add_ranks_and_origins(tmp_path) -> None:
    cells = [make_cell(1), make_cell(2)]
    for cell in cells:
        for run in cell.runs:
            synthetic.make_run(tmp_path / run, world_size=cell.world_size)
    text = html.render(make_study(*cells), tmp_path)
    words = Page(text).words
    assert "Figure 9. Ranks." in words
    assert "Figure 10. Phases by rank." in words
    assert "Figure 8. Every timed step." in words
    assert "20 timed steps" in words
    assert re.search(r"repeat 3: step time [\d., ]+ ms on ranks 0 to 1", words)
    assert "derived" in words
    assert "Gloo on one host" in words


def test_letters_count_on_after_z() -> None:
    assert [letter(i) for i in (0, 25, 26, 27, 51, 52)] == ["a", "z", "aa", "ab", "az", "ba"]


hostile = st.text(max_size=30).map(lambda text: f"<script>alert(1)</script>\"'&$x_1$\x00\n{text}")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hostile)
def test_hostile_names_stay_text(text: str) -> None:
    problem = Problem(rule=text, severity="blocks", message=text)
    cells = [
        make_cell(1, name=text, vary={text: text}),
        make_cell(2, baseline=text, vary={text: "b"}, strategy=text, problems=[problem]),
        refused(4, name="x", vary={text: text}, baseline=text),
        failed(8, reason=text).model_copy(update={"failures": [RunFailure(run=text, reason=text)]}),
    ]  # fmt: skip
    study = make_study(
        *cells,
        title=text,
        verdict=Verdict(headline=text, why=[text], next=[text], evidence=[text]),
        config={"model": {text: text}, text: text},
        command=[text],
    )
    page = Page(html.render(study, None))
    for tag, attributes in page.tags:
        assert tag not in {"script", "img"}
        assert not any(key.startswith("on") for key in attributes)
    assert "alert(1)" in page.words


@pytest.mark.slow
def test_a_page_takes_less_than_three_seconds() -> None:
    study: StudyResult = STUDIES["many cells"]
    begin = time.process_time()
    html.render(study, None)
    assert time.process_time() - begin < 3


def test_numbers_never_part_from_their_units() -> None:
    assert (
        html.prose("1.7–1.8 at 95 % in 5 ms\nof 2 steps") == "1.7\u2060–\u20601.8 at 95\u00a0% in 5\u00a0ms of 2 steps"
    )
