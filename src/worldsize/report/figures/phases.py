"""Where each step's time goes, and exposed communication as three clocks see it."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from worldsize.records import PHASES, ExposedCommunication, Measured
from worldsize.report import svg, theme
from worldsize.report.figures import frame, timing
from worldsize.report.numbers import Unit, in_words, show, time_unit
from worldsize.study.records import CellResult, StudyResult

METHODS = ("clock", "ablation", "trace")
_METHOD_COLOURS = {
    "clock": theme.phase_colour("exposed_communication_s"),
    "ablation": theme.series_colour(0),
    "trace": theme.series_colour(2),
}


def phases_present(result: StudyResult) -> list[str]:
    """Return the phases that any cell spent time in, in drawing order."""
    known = [phase for phase in PHASES if any(cell.phases_s.get(phase, 0) for cell in result.cells)]
    others = {phase for cell in result.cells for phase in cell.phases_s if phase not in PHASES}
    return known + sorted(others)


@theme.styled
def phases(result: StudyResult) -> Figure:
    """The phases of a step, stacked, one bar a cell; a bar's length is the step time."""
    present = phases_present(result)
    unit = time_unit(sum(cell.phases_s.values()) for cell in result.cells)
    axes = frame.rows(len(result.cells), legend_rows=-(-len(present) // 3))
    frame.upper_limit(axes, [sum(cell.phases_s.values()) for cell in result.cells], unit)
    for row, cell in enumerate(result.cells):
        name = frame.row_text(result, cell)
        if not cell.phases_s:
            reason = timing.why(cell) if cell.step_time_s is None else "phases were not recorded"
            frame.row_label(axes, row, name, "not known: " + reason, muted=True)
            continue
        frame.row_label(axes, row, name, _total(cell, unit))
        _bar(axes, row, cell, present, unit)
    names = [Patch(color=theme.phase_colour(phase), label=theme.PHASE_NAMES.get(phase, phase)) for phase in present]
    frame.legend(axes, names, 3)
    axes.set_xlabel(f"time in one step ({unit.name})")
    return frame.figure_of(axes)


def _total(cell: CellResult, unit: Unit) -> str:
    """Return '61.0 ms (10 % exposed)': the bar's length, and the share that its burning part has."""
    total_s = sum(cell.phases_s.values())
    text = f"{show(total_s * unit.factor)} {unit.name}"
    exposed_s = cell.phases_s.get("exposed_communication_s", 0.0)
    return f"{text} ({100 * exposed_s / total_s:.0f} % exposed)" if exposed_s > 0 else text


def _bar(axes: Axes, row: int, cell: CellResult, present: list[str], unit: Unit) -> None:
    total = sum(cell.phases_s.values())
    points_per_unit = (frame.WIDTH_PT - 18) / axes.get_xlim()[1]
    start = 0.0
    for phase in present:
        length = cell.phases_s.get(phase, 0.0) * unit.factor
        if length <= 0:
            continue
        (patch,) = axes.barh(
            row + 0.06, length, 0.44, left=start, color=theme.phase_colour(phase), edgecolor=theme.light("paper")
        )
        patch.set_linewidth(0.5)
        share = cell.phases_s[phase] / total
        name = theme.PHASE_NAMES.get(phase, phase)
        svg.tip(patch, f"{name}: {show(length)} {unit.name}, {100 * share:.1f} % of the step")
        text = show(length)
        if length * points_per_unit > 5.2 * len(text) + 4:
            role = "ink-on-fill" if phase in theme.DARK_LETTERED_PHASES else "on-fill"
            middle = start + length / 2
            axes.text(middle, row + 0.07, text, ha="center", va="center", fontsize=7.5, color=theme.light(role))
        start += length


def methods(exposed: ExposedCommunication) -> dict[str, Measured | None]:
    """Return the three measures by name, in drawing order."""
    return {"clock": exposed.clock_s, "ablation": exposed.ablation_s, "trace": exposed.trace_s}


@theme.styled
def exposed(result: StudyResult) -> Figure:
    """Exposed communication of a step by clock, ablation and trace, for every cell on more than one device."""
    cells = [cell for cell in result.cells if cell.world_size > 1]
    axes = frame.rows(len(cells), legend_rows=1)
    measures = {cell.name: methods(cell.exposed_communication) for cell in cells if cell.exposed_communication}
    values = [value for by_method in measures.values() for value in by_method.values() if value]
    unit = time_unit(value.median for value in values)
    ends = [end for value in values for end in (value.low, value.high)]
    frame.upper_limit(axes, ends, unit)
    if min(ends, default=0) < 0:
        axes.set_xlim(left=min(ends) * unit.factor * 1.06)
        axes.axvline(0, color=theme.light("rule"), linewidth=0.8)
    for row, cell in enumerate(cells):
        name = frame.row_text(result, cell)
        by_method = measures.get(cell.name)
        if by_method is None:
            reason = timing.why(cell) if cell.step_time_s is None else "it was not measured"
            frame.row_label(axes, row, name, "not known: " + reason, muted=True)
            continue
        absent = [method for method, value in by_method.items() if value is None]
        note = f"not measured: {', '.join(absent)}" if absent else ""
        frame.row_label(axes, row, name, note)
        _measures(axes, row, by_method, unit, name)
    frame.legend(axes, [_handle(method) for method in METHODS], 3)
    axes.set_xlabel(f"exposed communication in one step ({unit.name})")
    return frame.figure_of(axes)


def _measures(axes: Axes, row: int, by_method: dict[str, Measured | None], unit: Unit, name: str) -> None:
    for index, (method, value) in enumerate(by_method.items()):
        if value is None:
            continue
        y = row + (index - 1) * 0.19 + 0.08
        colour = _METHOD_COLOURS[method]
        axes.plot([value.low * unit.factor, value.high * unit.factor], [y, y], color=colour, linewidth=1.6, alpha=0.55)
        (dot,) = axes.plot([value.median * unit.factor], [y], color=colour, marker=_marker(method), markersize=4.5)
        svg.tip(dot, f"{name}, by {method}: {in_words(value, unit)}")


def _marker(method: str) -> str:
    return theme.MARKERS[METHODS.index(method)]


def _handle(method: str) -> Line2D:
    return Line2D(
        [], [], color=_METHOD_COLOURS[method], marker=_marker(method), markersize=4.5, linewidth=1.6, label=method
    )
