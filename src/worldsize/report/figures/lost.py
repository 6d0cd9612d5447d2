"""Lost time as a waterfall: from the ideal step, part by part, to the step that was measured."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldsize.report import svg, theme
from worldsize.report.figures import frame
from worldsize.report.lost_parts import Part, parts
from worldsize.report.numbers import Unit, show, time_unit
from worldsize.study.records import CellResult, LostTime, StudyResult

MOST_CELLS = 4
LINE_PT = 14.0
"""Height of one bar of a waterfall."""


def explained(result: StudyResult) -> list[CellResult]:
    """Return the cells whose lost time is known: of many, those that lost the largest share, in the study's order."""
    known = [cell for cell in result.cells if cell.lost_time]
    worst = sorted(known, key=_share, reverse=True)[:MOST_CELLS]
    return [cell for cell in known if cell in worst]


def _share(cell: CellResult) -> float:
    lost = cell.lost_time
    return lost.lost_s / (lost.ideal_s + abs(lost.lost_s)) if lost and lost.ideal_s else 0.0


@theme.styled
def lost_time(result: StudyResult) -> Figure:
    """One waterfall a cell: ideal, what each part adds (or wins back, hatched), and the measured step."""
    cells = [(cell, cell.lost_time) for cell in explained(result) if cell.lost_time]
    unit = time_unit(lost.ideal_s + max(lost.lost_s, 0.0) for _, lost in cells)
    num_lines = sum(len(parts(lost)) + 3.4 for _, lost in cells)
    axes = frame.frame(LINE_PT * num_lines, left_pt=100.0)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    line = 0.0
    for cell, lost in cells:
        line = _waterfall(axes, line, frame.row_text(result, cell), lost, unit)
    axes.set_ylim(line - 0.6, -0.6)
    reach = max(_highest(lost) for _, lost in cells) * unit.factor
    axes.set_xlim(0, reach * 1.16)
    axes.set_xlabel(f"time in one step ({unit.name})")
    return frame.figure_of(axes)


def _highest(lost: LostTime) -> float:
    """Return the furthest point that the waterfall reaches."""
    top = at = lost.ideal_s
    for part in parts(lost):
        at += part.seconds
        top = max(top, at)
    return max(top, lost.ideal_s + lost.lost_s)


def _waterfall(axes: Axes, line: float, name: str, lost: LostTime, unit: Unit) -> float:
    """Draw one cell's bars from `line` downwards; return the next free line."""
    across = axes.get_yaxis_transform()
    axes.text(-0.45, line, name, transform=across, va="center", ha="left", fontsize=8)
    line += 1
    _bar(axes, line, 0.0, lost.ideal_s, "ideal", theme.light("rule"), unit, show(lost.ideal_s * unit.factor))
    at = lost.ideal_s
    for part in parts(lost):
        line += 1
        sign = "+" if part.seconds >= 0 else "−"
        _bar(axes, line, at, part.seconds, part.name, part_colour(part), unit, f"{sign}{_size(part, unit)}")
        axes.plot([at * unit.factor] * 2, [line - 1.3, line + 0.3], color=theme.light("rule"), linewidth=0.6, zorder=1)
        at += part.seconds
    line += 1
    total = lost.ideal_s + lost.lost_s
    _bar(axes, line, 0.0, total, "measured", theme.light("muted"), unit, show(total * unit.factor))
    return line + 1.4


def _size(part: Part, unit: Unit) -> str:
    return show(abs(part.seconds) * unit.factor)


def part_colour(part: Part) -> str:
    """Return a part's colour: that of its phase wherever it is one."""
    return theme.phase_colour(part.phase)


def _bar(axes: Axes, line: float, start: float, seconds: float, name: str, colour: str, unit: Unit, text: str) -> None:
    """Draw a bar from `start` by `seconds`, its name at the left and its length behind its end."""
    (bar,) = axes.barh(line, seconds * unit.factor, 0.66, left=start * unit.factor, color=colour, zorder=2)
    if seconds < 0:
        bar.set(facecolor="none", edgecolor=colour, hatch="/////", linewidth=0.8)
    svg.tip(bar, f"{name}: {text} {unit.name}")
    axes.text(
        -0.03, line, name, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=7.5,
        color=theme.light("muted"),
    )  # fmt: skip
    end = max(start, start + seconds) * unit.factor
    axes.annotate(text, (end, line), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
