"""Compute against communication: what a step works, and what it waits for the exchange with nothing to do."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldsize.report import labels, svg, theme
from worldsize.report.figures import frame
from worldsize.report.numbers import Unit, show, time_unit
from worldsize.study.records import CellResult, StudyResult

RATIOS = (0.1, 1.0, 10.0, 100.0, 1000.0)


def exposed_cells(result: StudyResult) -> list[CellResult]:
    """Return the cells on more than one device that spent time in exposed communication."""
    return [cell for cell in result.cells if _place(cell)]


@theme.styled
def compute_communication(result: StudyResult) -> Figure:
    """Exposed communication against compute of a step, one mark a cell; along a diagonal their ratio is the same."""
    lines = [(i, line) for i, line in enumerate(labels.series(result)) if any(_place(c) for c in line.cells)]
    unit = time_unit(c.phases_s["compute_s"] for c in exposed_cells(result))
    axes = frame.frame(190, legend_rows=frame.legend_rows([line.label for _, line in lines]), left_pt=46)
    handles = []
    for index, line in lines:
        colour, marker = theme.series_colour(index), theme.MARKERS[index % len(theme.MARKERS)]
        cells = [cell for cell in line.cells if _place(cell)]
        points = np.array([_place(cell) for cell in cells], dtype=float) * unit.factor
        axes.plot(points[:, 0], points[:, 1], color=colour, linewidth=0.9, alpha=0.6, zorder=2)
        for cell, (x, y) in zip(cells, points, strict=True):
            (dot,) = axes.plot([x], [y], color=colour, marker=marker, markersize=5, linestyle="none", zorder=3)
            svg.tip(dot, _words(cell, unit))
            axes.annotate(f"{cell.world_size}", (x, y), (5, 3), textcoords="offset points", fontsize=7.5)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=0.9, label=line.label))
    frame.legend(axes, handles)
    _scales(axes, unit)
    axes.set_xlabel(f"compute in one step ({unit.name})")
    axes.set_ylabel(f"exposed communication ({unit.name})")
    return frame.figure_of(axes)


def _place(cell: CellResult) -> tuple[float, float] | None:
    if cell.world_size == 1 or not cell.compute_to_communication or not cell.phases_s.get("compute_s"):
        return None
    return cell.phases_s["compute_s"], cell.phases_s["exposed_communication_s"]


def _words(cell: CellResult, unit: Unit) -> str:
    x, y = (seconds * unit.factor for seconds in _place(cell) or (0.0, 0.0))
    ratio = show(cell.compute_to_communication or 0.0)
    return f"{labels.describe(cell)}: compute {show(x)}, exposed {show(y)} {unit.name}, ratio {ratio}"


def _scales(axes: Axes, unit: Unit) -> None:
    """Make both axes logarithmic with room around the marks, and draw the diagonals that pass."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = []
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        middle, reach = np.sqrt(low * high), max(np.sqrt(high / low), 2.2) * 1.25
        low, high = middle / reach, middle * reach
        ticks = [m * 10.0**k for k in range(-4, 7) for m in (1, 2, 5) if low <= m * 10.0**k <= high]
        axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        ends.append((low, high))
    axes.minorticks_off()
    axes.set_xlim(*ends[0])
    axes.set_ylim(*ends[1])
    for ratio in RATIOS:
        low, high = max(ends[0][0], ends[1][0] * ratio), min(ends[0][1], ends[1][1] * ratio)
        if low < high:
            axes.plot([low, high], [low / ratio, high / ratio], color=theme.light("rule"), linewidth=0.8, zorder=1)
            axes.annotate(
                f"{ratio:g} : 1", (high, high / ratio), (-3, -3), textcoords="offset points", ha="right", va="top",
                fontsize=7.5, color=theme.light("muted"),
            )  # fmt: skip
