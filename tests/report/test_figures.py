from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tests.report.studies import STUDIES, make_cell, make_study, refused
from worldsize.errors import UserError
from worldsize.records import PHASES, RankSummary
from worldsize.report import figures, theme
from worldsize.report.figures.training import has_losses
from worldsize.report.svg import inline

NEEDING_MORE = {"save", "per_rank", "rank_phases", "step_samples", "laws", "lost_time", "batch_efficiency"}
NEEDING_MORE |= {"compute_communication", "planned_cost", "planned_efficiency", "confusion"}
DRAWINGS = {name: getattr(figures, name) for name in figures.__all__ if name not in NEEDING_MORE}


@pytest.mark.parametrize("drawing", DRAWINGS)
@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_draws_every_study(name: str, drawing: str) -> None:
    svg = inline(DRAWINGS[drawing](STUDIES[name]), "key", "what it shows")
    assert svg.startswith('<svg role="img" aria-label="what it shows" viewBox="')
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}  # every colour is the theme's


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_axes_say_what_they_are(drawing: str) -> None:
    [axes] = DRAWINGS[drawing](STUDIES["two devices"]).axes
    assert axes.get_xlabel()
    if axes.get_yticks().size:
        assert axes.get_ylabel()
    unit = {"speedup": "", "efficiency": "%", "loss_by_step": "nats per token", "throughput": "tokens/s"}.get(drawing)
    assert (unit or "") in axes.get_ylabel() + axes.get_xlabel()
    if unit is None:
        assert re.search(r"\((s|ms|µs)\)", axes.get_xlabel())


def data_of(figure: Figure) -> np.ndarray:
    """Every point drawn by a line, as (x, y)."""
    [axes] = figure.axes
    points = [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines]
    return np.concatenate([p for p in points if p.size])


def test_every_repeat_and_both_ends_are_drawn() -> None:
    study = STUDIES["two devices"]
    drawn_s = data_of(figures.step_time(study))[:, 0] / 1e3
    speedups = data_of(figures.speedup(study))
    for cell in study.cells:
        assert cell.step_time_s
        for value in (cell.step_time_s.low, cell.step_time_s.high, *cell.step_time_s.samples):
            assert np.min(np.abs(drawn_s - value)) < 1e-12
    gain = study.cells[1].speedup
    assert gain
    at_two = speedups[speedups[:, 0] == 2][:, 1]
    for value in (gain.median, gain.low, gain.high, *gain.samples, 2.0):  # the ideal too
        assert np.min(np.abs(at_two - value)) < 1e-12


def test_a_refused_cell_is_hollow_and_named() -> None:
    [axes] = figures.speedup(make_study(make_cell(1), refused(2))).axes
    [mark] = [line for line in axes.lines if list(line.get_xdata()) == [2] and line.get_marker() == "o"]
    assert to_hex(mark.get_markerfacecolor()) == theme.light("paper")
    assert [text.get_text() for text in axes.texts] == ["refused: unequal-work"]


def test_bars_of_phases_sum_to_the_step_and_keep_their_colours() -> None:
    study = STUDIES["two devices"]
    [axes] = figures.phases(study).axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    for row, cell in enumerate(study.cells):
        own = [bar for bar in bars if round(bar.get_y() + bar.get_height() / 2) == row]
        by_colour = {to_hex(bar.get_facecolor()): bar.get_width() / 1e3 for bar in own}
        expected = {theme.phase_colour(phase): s for phase, s in cell.phases_s.items() if s}
        assert by_colour == pytest.approx(expected)
        assert sum(by_colour.values()) == pytest.approx(sum(cell.phases_s.values()))


def test_loss_curves_are_the_records() -> None:
    study = STUDIES["two devices"]
    [axes] = figures.loss_by_time(study).axes
    for cell, line in zip(study.cells, axes.lines, strict=True):
        assert cell.step_time_s
        assert list(line.get_ydata()) == cell.losses
        seconds = np.arange(1, len(cell.losses) + 1) * cell.step_time_s.median
        np.testing.assert_allclose(line.get_xdata(), seconds)
    assert not has_losses(STUDIES["failures only"])


def test_ranks_are_drawn_one_by_one() -> None:
    def rank(index: int, step_time_s: float) -> RankSummary:
        phases = dict.fromkeys(PHASES, 0.0) | {"compute_s": 0.8 * step_time_s, "other_s": 0.2 * step_time_s}
        return RankSummary(rank=index, step_time_s=step_time_s, phases_s=phases, num_samples=1, num_tokens=1,
                           samples_digest="0", peak_memory_bytes=1)  # fmt: skip

    study = make_study(make_cell(1), make_cell(2))
    drawn = data_of(figures.per_rank(study, {"n2-b64": [[rank(0, 0.05), rank(1, 0.06)]]}))[:, 0]
    assert sorted(drawn) == pytest.approx([40, 48, 50, 60])


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_figures_are_saved_alike_each_time(tmp_path: Path, suffix: str) -> None:
    begin = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix]
    for name in ("one", "two"):
        figures.save(figures.phases(STUDIES["two devices"]), tmp_path / f"{name}.{suffix}")
    one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
    assert one.startswith(begin)
    assert one == two


def test_an_unknown_suffix_names_those_that_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'x\.bmp'.*\.svg, \.pdf, \.png"):
        figures.save(Figure(), tmp_path / "x.bmp")


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.cbrt(np.maximum(xyz / np.array([0.9505, 1.0, 1.089]), 0.008856))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


VISION = {  # Machado, Oliveira & Fernandes (2009), severity 1.0, linear RGB
    "full": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", VISION)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_phases_differ_for_every_eye(mode: str, kind: str) -> None:
    """Neighbours in a bar, and exposed communication from everything, differ clearly (ΔE*ab over 15)."""
    seen = {p: lab(np.clip(VISION[kind] @ linear(getattr(theme.COLOURS[f"phase-{p}"], mode)), 0, 1)) for p in PHASES}
    burning = "exposed_communication_s"
    pairs = [*pairwise(PHASES), *((burning, p) for p in PHASES if p != burning)]
    for one, other in pairs:
        assert np.linalg.norm(seen[one] - seen[other]) > 15, (one, other)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio."""
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_read(mode: str) -> None:
    colour = {role: getattr(colours, mode) for role, colours in theme.COLOURS.items()}
    assert contrast(colour["ink"], colour["paper"]) > 7
    assert contrast(colour["muted"], colour["paper"]) > 4.5
    for phase in PHASES:
        letters = "ink-on-fill" if phase in theme.DARK_LETTERED_PHASES else "on-fill"
        assert contrast(colour[f"phase-{phase}"], colour[letters]) > 3, phase
    for index in range(1, theme.NUM_SERIES + 1):
        assert contrast(colour[f"series-{index}"], colour["paper"]) > 1.9


def test_no_two_roles_share_a_light_colour() -> None:
    light = [colour.light for colour in theme.COLOURS.values()]
    assert len(set(light)) == len(light)
    for one, other in combinations(theme.COLOURS, 2):
        assert theme.light(one) != theme.light(other)
