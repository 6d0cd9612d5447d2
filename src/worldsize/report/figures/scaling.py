"""What more devices buy: speedup and efficiency against the ideal, intervals and every repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Transform, offset_copy

from worldsize.records import Measured
from worldsize.report import labels, svg, theme
from worldsize.report.figures import frame
from worldsize.report.numbers import ONE, PERCENT, Unit, in_words
from worldsize.study.records import CellResult, StudyResult

FOOT_ROWS = 6
"""Cells without a comparison that get a line of text each."""

Pick = Callable[[CellResult], Measured | None]


@theme.styled
def speedup(result: StudyResult) -> Figure:
    """Speedup against devices with the ideal line; refused cells hollow at the foot, overridden ones with †."""
    lines = labels.series(result)
    axes = _axes(lines)
    sizes = [cell.world_size for cell in result.cells]
    logarithmic = frame.device_axis(axes, sizes)
    first = min((line.cells[0].world_size for line in lines), default=1)
    reach = np.array([min(sizes, default=1), max(sizes, default=1)], dtype=float)
    axes.plot(reach, reach / first, color=theme.light("muted"), linewidth=0.9, dashes=(4, 3), zorder=1)
    _draw(axes, lines, lambda cell: cell.speedup, ONE, "speedup")
    top = max([1.0, float(reach[1] / first), *_highest(result, lambda cell: cell.speedup)])
    if logarithmic:
        axes.set_yscale("log", base=2)
        axes.set_ylim(0.5, top * 1.25)
        ticks = [2.0**power for power in range(-1, int(np.log2(top)) + 1)]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    else:
        axes.set_ylim(0, top * 1.12)
    axes.set_ylabel("speedup, T(baseline) / T(N)")
    return frame.figure_of(axes)


@theme.styled
def efficiency(result: StudyResult) -> Figure:
    """Efficiency against devices, percent; the ideal is 100 %."""
    lines = labels.series(result)
    axes = _axes(lines)
    frame.device_axis(axes, [cell.world_size for cell in result.cells])
    axes.axhline(100, color=theme.light("muted"), linewidth=0.9, dashes=(4, 3), zorder=1)
    _draw(axes, lines, lambda cell: cell.efficiency, PERCENT, "efficiency")
    axes.set_ylim(0, max([100.0, *(100 * high for high in _highest(result, lambda cell: cell.efficiency))]) * 1.12)
    axes.set_ylabel("efficiency (%)")
    return frame.figure_of(axes)


def _axes(lines: Sequence[labels.Series]) -> Axes:
    axes = frame.frame(190, legend_rows=frame.legend_rows(["ideal", *(line.label for line in lines)]), left_pt=44)
    axes.grid(axis="y")
    return axes


def _highest(result: StudyResult, pick: Pick) -> list[float]:
    values = [value for cell in result.cells if (value := pick(cell))]
    return [top for value in values for top in (value.high, *value.samples)]


def _draw(axes: Axes, lines: Sequence[labels.Series], pick: Pick, unit: Unit, noun: str) -> None:
    """Draw every series, and the legend above them."""
    ideal = Line2D([], [], color=theme.light("muted"), linewidth=0.9, dashes=(4, 3), label="ideal")
    handles = [ideal]
    absent: list[str] = []
    for index, line in enumerate(lines):
        colour, marker = theme.series_colour(index), theme.MARKERS[index % len(theme.MARKERS)]
        nudge = (index - (len(lines) - 1) / 2) * min(5.0, 24 / len(lines))
        _line(axes, line, pick, unit, noun, colour=colour, marker=marker, nudge_pt=nudge)
        _absent(axes, line, pick, noun, colour=colour, marker=marker, stacked=absent)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=1.1, label=line.label))
    frame.legend(axes, handles)


def _line(
    axes: Axes, line: labels.Series, pick: Pick, unit: Unit, noun: str, *, colour: str, marker: str, nudge_pt: float
) -> None:
    """Draw one series' medians joined, its intervals, and every repeat; `nudge_pt` keeps series side by side."""
    shift = _shifted(axes, nudge_pt)
    points = [(cell, value) for cell in line.cells if (value := pick(cell) or labels.baseline_point(cell))]
    middles = [value.median * unit.factor for _, value in points]
    axes.plot([cell.world_size for cell, _ in points], middles, color=colour, linewidth=1.1, transform=shift, zorder=2)
    for cell, value in points:
        size = cell.world_size
        ends = [value.low * unit.factor, value.high * unit.factor]
        axes.plot([size, size], ends, color=colour, linewidth=1.6, alpha=0.55, transform=shift, zorder=3)
        repeats = value.samples if pick(cell) else []
        for offset, sample in zip(frame.spread(len(repeats), 2.6), repeats, strict=True):
            place = _shifted(axes, nudge_pt + offset + 4.5)
            (repeat,) = axes.plot([size], [sample * unit.factor], color=colour, transform=place, linestyle="none")
            repeat.set(marker="o", markersize=2.4, markeredgewidth=0, alpha=0.75)
        face = theme.light("paper") if cell.overridden else colour
        (dot,) = axes.plot(
            [size], [value.median * unit.factor], color=colour, marker=marker, markersize=5, transform=shift, zorder=5
        )
        dot.set_markerfacecolor(face)
        mark = " † printed by override" if cell.overridden else " ‡ other maths" if cell.other_maths else ""
        svg.tip(dot, f"{labels.describe(cell)}: {noun} {in_words(value, unit)}{mark}")
        if mark:
            axes.annotate(mark[1], (size, value.median * unit.factor), (nudge_pt + 4, 5), textcoords="offset points")


def _absent(
    axes: Axes, line: labels.Series, pick: Pick, noun: str, *, colour: str, marker: str, stacked: list[str]
) -> None:
    """Mark each cell without a comparison hollow at the foot of its world size, with the reason; they stack."""
    for cell in line.cells:
        if pick(cell) is not None or cell.is_baseline:
            continue
        height = len(stacked)
        stacked.append(cell.name)
        reason = labels.not_compared(cell)
        place = (cell.world_size, 0.045 + 0.075 * (height % FOOT_ROWS))
        foot = axes.get_xaxis_transform()
        (dot,) = axes.plot(*place, color=colour, marker=marker, markersize=5, transform=foot, zorder=5)
        dot.set_markerfacecolor(theme.light("paper"))
        svg.tip(dot, f"{labels.describe(cell)}: no {noun}: {reason}")
        if height >= FOOT_ROWS:
            continue  # a crowd: the marks stay, each with its reason under the pointer and in the table
        rule, *more = labels.blocking_rules(cell) or ["no baseline"]
        others = f" and {len(more)} more" if more else ""
        text = f"refused: {labels.plain(rule, 28)}{others}" if cell.step_time_s else "no repeat finished"
        at_right = cell.world_size > np.mean(axes.get_xlim())
        axes.annotate(
            text,
            place,
            (-6 if at_right else 6, 0),
            xycoords=foot,
            textcoords="offset points",
            ha="right" if at_right else "left",
            va="center",
            fontsize=7.5,
            color=theme.light("muted"),
        )


def _shifted(axes: Axes, points: float) -> Transform:
    """Return data coordinates moved right by `points`."""
    return offset_copy(axes.transData, fig=frame.figure_of(axes), x=points, units="points")
