"""Every timed step of every repeat, as a share of its cell's median: spread, outliers, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldsize.report import svg, theme
from worldsize.report.figures import frame
from worldsize.report.numbers import count, show
from worldsize.study.records import CellResult, StudyResult

SamplesByCell = Mapping[str, Sequence[Sequence[float]]]
"""Cell name → its finished repeats → the step times (s) of each, in order."""

LINEAR_TO = 4.0
"""Times the median up to which the axis is linear."""
SHORTEST = 0.075
"""Length of a tick, in rows, where steps are many."""


@theme.styled
def step_samples(result: StudyResult, samples: SamplesByCell) -> Figure:
    """One short tick a step: across, its time over the cell's median; down, the repeats, and within each the steps."""
    cells = [cell for cell in result.cells if samples.get(cell.name) and cell.step_time_s]
    axes = frame.rows(len(cells))
    ratios = [_ratios(cell, samples[cell.name]) for cell in cells]
    every = np.concatenate([repeat for repeats in ratios for repeat in repeats]) if ratios else np.ones(1)
    low, high = float(every.min()), float(every.max())
    if high > LINEAR_TO:
        axes.set_xscale("log")
        axes.minorticks_off()
        ticks = [50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000]
        axes.set_xticks([t for t in ticks if t <= 100 * high], [f"{t:,}" for t in ticks if t <= 100 * high])
    margin = 0.04 * max(high - low, 0.01)
    axes.set_xlim(100 * (low - margin), 100 * (high + margin))
    axes.axvline(100, color=theme.light("muted"), linewidth=0.8, dashes=(4, 3), zorder=1)
    for row, (cell, repeats) in enumerate(zip(cells, ratios, strict=True)):
        name = frame.row_text(result, cell)
        pooled = np.concatenate(repeats)
        spread = np.percentile(pooled, [5, 95]) * 100
        words = f"{count(pooled.size, 'step')}, 90 % in {spread[0]:.1f}–{spread[1]:.1f} %"
        frame.row_label(axes, row, name, words)
        _row(axes, row, cell, repeats, name)
    axes.set_xlabel("step time over the cell's median (%)")
    return frame.figure_of(axes)


def _ratios(cell: CellResult, repeats: Sequence[Sequence[float]]) -> list[np.ndarray]:
    assert cell.step_time_s is not None
    return [np.asarray(repeat, dtype=float) / cell.step_time_s.median for repeat in repeats]


def _row(axes: Axes, row: int, cell: CellResult, repeats: Sequence[np.ndarray], name: str) -> None:
    """Draw a lane a repeat; one path holds all its ticks, so that thousands of steps stay a small file."""
    lane = 0.56 / len(repeats)
    for index, ratios in enumerate(repeats):
        top = row - 0.2 + lane * index
        steps = np.linspace(0, 0.92 * lane, ratios.size, endpoint=False)
        tick = max(0.92 * lane / ratios.size, SHORTEST)
        x = np.column_stack([ratios, ratios, np.full(ratios.size, np.nan)]).ravel() * 100
        y = np.column_stack([top + steps, top + steps + tick, np.full(ratios.size, np.nan)]).ravel()
        (ticks,) = axes.plot(x, y, color=theme.series_colour(index % 2 * 2), linewidth=1.1, alpha=0.85, zorder=3)
        ticks.set_solid_capstyle("butt")
        slowest = int(np.argmax(ratios))
        text = f"slowest {show(100 * ratios[slowest], 1)} % at its {slowest + 1}. timed step"
        svg.tip(ticks, f"{name}, repeat {index + 1}: {count(ratios.size, 'timed step')}, {text}")
