"""Figures of laws, lost time, batches, single steps and ranks: what they draw is what the records hold."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tests.report.filled import FILLED, ONE_CURVE, TWO_COUNTS, filled
from tests.report.studies import make_cell, make_study
from worldsize.records import PHASES, RankSummary
from worldsize.report import figures, theme
from worldsize.report.figures.heat import table
from worldsize.report.svg import inline
from worldsize.study.records import LostTime


def drawn(figure: Figure) -> np.ndarray:
    [axes] = figure.axes
    points = [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines]
    return np.concatenate([p for p in points if p.size])


def holds(points: np.ndarray, x: float, y: float) -> bool:
    return bool(np.min(np.abs(points - [x, y]).max(axis=1)) < 1e-9)


def rank(index: int, compute_s: float, step_time_s: float = 0.1) -> RankSummary:
    phases = dict.fromkeys(PHASES, 0.0)
    phases |= {"compute_s": compute_s, "exposed_communication_s": step_time_s - compute_s}
    return RankSummary(rank=index, step_time_s=step_time_s, phases_s=phases, num_samples=1, num_tokens=1,
                       samples_digest="0", peak_memory_bytes=1)  # fmt: skip


RANKS = {"n4-b128": [[rank(i, 0.06 + 0.005 * (i == 2)) for i in range(4)]] * 3}
STEPS = {"n4-b128": [[0.06, 0.061, 0.2], [0.0605, 0.0612, 0.0599]]}
ALL = {
    "laws": lambda: figures.laws(FILLED),
    "one law": lambda: figures.laws(ONE_CURVE),
    "two counts": lambda: figures.laws(TWO_COUNTS),
    "weak": lambda: figures.laws(filled(scaling="weak", batches=(64,))),
    "lost": lambda: figures.lost_time(FILLED),
    "batches": lambda: figures.batch_efficiency(FILLED),
    "communication": lambda: figures.compute_communication(FILLED),
    "steps": lambda: figures.step_samples(FILLED, STEPS),
    "ranks": lambda: figures.rank_phases(FILLED, RANKS),
}


@pytest.mark.parametrize("name", ALL)
def test_each_is_an_svg_in_the_themes_colours_with_labels(name: str) -> None:
    figure = ALL[name]()
    [axes] = figure.axes
    assert axes.get_xlabel()
    svg = inline(figure, "key", "what it shows")
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}
    assert "<title>" in svg


def test_laws_show_every_repeat_and_every_prediction_with_its_interval() -> None:
    points = drawn(figures.laws(ONE_CURVE))
    assert ONE_CURVE.fits
    for cell in ONE_CURVE.cells:
        assert cell.step_time_s
        assert all(holds(points, cell.world_size, 1e3 * sample) for sample in cell.step_time_s.samples)
    [outlook] = ONE_CURVE.fits.outlook
    assert [p.devices for p in outlook.doublings] == [16, 32, 64]
    for prediction in outlook.doublings:
        time = prediction.step_time_s
        for end in (time.value, time.low, time.high):
            assert end
            assert holds(points, prediction.devices, 1e3 * end)


def test_what_is_not_believable_is_hatched_and_grey() -> None:
    [axes] = figures.laws(TWO_COUNTS).axes
    assert TWO_COUNTS.fits
    [outlook] = TWO_COUNTS.fits.outlook
    assert outlook.believable_to == 2
    hatched = [area for area in axes.collections if area.get_hatch()]
    assert hatched
    assert min(path.vertices[:, 0].min() for area in hatched for path in area.get_paths()) == pytest.approx(2, rel=0.1)
    [mark] = [line for line in axes.lines if list(line.get_xdata()) == [4] and line.get_marker() == "o"]
    assert to_hex(mark.get_color()) == theme.light("muted")


def test_a_waterfall_leads_from_the_ideal_to_the_measured_step() -> None:
    lost = LostTime(
        ideal_s=0.03,
        lost_s=0.01,
        parts_s={"waiting_s": 0.004, "transfer_s": 0.003, "compute_excess_s": 0.005, "other_s": -0.002},
    )
    [axes] = figures.lost_time(make_study(make_cell(1), make_cell(2, lost_time=lost))).axes
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars]
    expected = [(0, 30), (30, 34), (34, 37), (37, 42), (42, 40), (0, 40)]
    assert np.allclose(spans, expected)
    assert [bool(bar.get_hatch()) for bar in bars] == [False, False, False, False, True, False]


def test_every_sample_of_every_repeat_is_a_tick() -> None:
    [axes] = figures.step_samples(FILLED, STEPS).axes
    cell = next(cell for cell in FILLED.cells if cell.name == "n4-b128")
    assert cell.step_time_s
    for repeat in STEPS["n4-b128"]:
        percent = [100 * sample / cell.step_time_s.median for sample in repeat]
        ticks = [line for line in axes.lines if len(line.get_xdata()) == 3 * len(repeat)]
        assert any(np.allclose(np.asarray(line.get_xdata())[::3], percent) for line in ticks)


def test_a_rank_that_computes_longer_stands_out() -> None:
    phases, fields = table(RANKS["n4-b128"])
    assert phases == ["compute_s", "exposed_communication_s"]
    assert fields[2] == pytest.approx([0.065, 0.035])
    [axes] = figures.rank_phases(FILLED, RANKS).axes
    opacity = {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)): p.get_alpha() for p in axes.patches}
    colour = {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)): to_hex(p.get_facecolor()) for p in axes.patches}
    assert opacity[0, 2] == max(opacity.values())
    assert colour[0, 2] == theme.phase_colour("exposed_communication_s") != colour[1, 2]
    assert "65.0" in {text.get_text() for text in axes.texts}


def test_batches_lie_on_lines_of_equal_devices() -> None:
    points = drawn(figures.batch_efficiency(FILLED))
    for cell in FILLED.cells:
        if cell.efficiency and not cell.is_baseline:
            assert holds(points, cell.global_batch, 100 * cell.efficiency.median)


def test_compute_against_communication_leaves_one_device_out() -> None:
    points = drawn(figures.compute_communication(FILLED))
    for cell in FILLED.cells:
        place = (1e3 * cell.phases_s["compute_s"], 1e3 * cell.phases_s["exposed_communication_s"])
        assert holds(points, *place) == (cell.world_size > 1)
