"""Batch against efficiency: what a larger batch gives back, and how much of each sample it wastes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldsize.report import labels, svg, theme
from worldsize.report.figures import frame
from worldsize.report.numbers import PERCENT, count, in_words
from worldsize.scaling.noise_scale import sample_efficiency
from worldsize.study.records import CellResult, StudyResult

NOISE = "progress per sample"


def compared(result: StudyResult) -> dict[tuple[int, str], list[CellResult]]:
    """Return the cells with an efficiency, by devices and by what was varied, each line by batch."""
    lines: dict[tuple[int, str], list[CellResult]] = {}
    for cell in sorted(result.cells, key=lambda cell: (cell.world_size, cell.global_batch)):
        if cell.efficiency and not cell.is_baseline:
            lines.setdefault((cell.world_size, labels.varied(cell)), []).append(cell)
    return lines


@theme.styled
def batch_efficiency(result: StudyResult) -> Figure:
    """Efficiency against the global batch, a line for each number of devices; dotted: the gradient noise's answer."""
    lines = compared(result)
    vary = len({key for _, key in lines}) > 1
    noisy = _noise_cell(result)
    names = [labels.plain(_name(devices, key if vary else ""), 40) for devices, key in lines]
    axes = frame.frame(190, legend_rows=frame.legend_rows([*names, *([NOISE] if noisy else [])]), left_pt=44)
    axes.grid(axis="y")
    axes.set_xscale("log", base=2)
    axes.axhline(100, color=theme.light("muted"), linewidth=0.9, dashes=(4, 3), zorder=1)
    handles, tops = [], [100.0]
    for index, (name, cells) in enumerate(zip(names, lines.values(), strict=True)):
        colour, marker = theme.series_colour(index), theme.MARKERS[index % len(theme.MARKERS)]
        tops += _line(axes, cells, colour, marker)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=1.1, label=name))
    batches = sorted({cell.global_batch for cells in lines.values() for cell in cells})
    if noisy:
        handles.append(_noise(axes, noisy, batches))
    frame.legend(axes, handles)
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    axes.minorticks_off()
    axes.set_xlim(batches[0] / 1.25, batches[-1] * 1.25)
    axes.set_ylim(0, max(tops) * 1.12)
    axes.set_xlabel("global batch (samples)")
    axes.set_ylabel("efficiency (%)")
    return frame.figure_of(axes)


def _name(devices: int, key: str) -> str:
    return count(devices, "device") + (f", {key}" if key else "")


def _line(axes: Axes, cells: list[CellResult], colour: str, marker: str) -> list[float]:
    """Draw one line with intervals and repeats; return the highest points."""
    tops = []
    points = [(cell, cell.efficiency) for cell in cells if cell.efficiency]
    axes.plot([c.global_batch for c, _ in points], [100 * e.median for _, e in points], color=colour, linewidth=1.1)
    for cell, value in points:
        axes.plot([cell.global_batch] * 2, [100 * value.low, 100 * value.high], color=colour, linewidth=1.6, alpha=0.55)
        (dot,) = axes.plot([cell.global_batch], [100 * value.median], color=colour, marker=marker, markersize=5)
        dot.set_markerfacecolor(theme.light("paper") if cell.overridden else colour)
        svg.tip(dot, f"{labels.describe(cell)}: efficiency {in_words(value, PERCENT)}")
        tops.append(100 * value.high)
    return tops


def _noise_cell(result: StudyResult) -> CellResult | None:
    """Return the cell whose gradient noise scale rests on the most samples a step."""
    known = [c for c in result.cells if c.noise_scale and c.noise_scale.noise_scale and c.noise_scale.noise_scale.value]
    return max(known, key=lambda cell: cell.global_batch, default=None)


def _noise(axes: Axes, cell: CellResult, batches: list[int]) -> Line2D:
    """Draw the progress of a sample against that of one in a tiny batch, with its band; return its handle."""
    assert cell.noise_scale is not None
    assert cell.noise_scale.noise_scale is not None
    scale = cell.noise_scale.noise_scale
    reach = np.geomspace(batches[0] / 1.25, batches[-1] * 1.25, 40)
    colour = theme.light("muted")
    if scale.low is not None:
        low = [100 * float(sample_efficiency(max(scale.low, 1e-9), batch)) for batch in reach]
        high = [100.0 if scale.high is None else 100 * float(sample_efficiency(scale.high, b)) for b in reach]
        axes.fill_between(reach, low, high, color=colour, alpha=0.15, linewidth=0, zorder=1)
    middle = [100 * float(sample_efficiency(scale.value or 0.0, batch)) for batch in reach]
    (line,) = axes.plot(reach, middle, color=colour, linewidth=1.1, linestyle=theme.DASHES[2])
    svg.tip(line, f"progress of a sample over that of one in a tiny batch; from {labels.describe(cell)}")
    return Line2D([], [], color=colour, linewidth=1.1, linestyle=theme.DASHES[2], label=NOISE)
