"""How long a step takes and how many tokens a second that is: one row a cell, every repeat visible."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from worldsize.records import Measured
from worldsize.report import labels, theme
from worldsize.report.figures import frame
from worldsize.report.numbers import Unit, in_words, time_unit
from worldsize.study.records import CellResult, StudyResult


@theme.styled
def step_time(result: StudyResult) -> Figure:
    """Step time of every cell, seconds."""
    medians = [cell.step_time_s.median for cell in result.cells if cell.step_time_s]
    unit = time_unit(medians)
    return _rows(result, lambda cell: cell.step_time_s, unit, f"step time ({unit.name})")


@theme.styled
def throughput(result: StudyResult) -> Figure:
    """Tokens per second of every cell, all its devices together."""
    medians = [cell.tokens_per_s.median for cell in result.cells if cell.tokens_per_s]
    unit = Unit(1e-3, "thousand tokens/s") if max(medians, default=0) >= 10_000 else Unit(1.0, "tokens/s")
    return _rows(result, lambda cell: cell.tokens_per_s, unit, f"throughput of all devices ({unit.name})")


def _rows(result: StudyResult, pick: Callable[[CellResult], Measured | None], unit: Unit, label: str) -> Figure:
    axes = frame.rows(len(result.cells))
    values = [value for cell in result.cells if (value := pick(cell))]
    frame.upper_limit(axes, [sample for value in values for sample in (*value.samples, value.high)], unit)
    for row, cell in enumerate(result.cells):
        value = pick(cell)
        name = frame.row_text(result, cell)
        if value is None:
            frame.row_label(axes, row, name, "not known: " + why(cell), muted=True)
            continue
        short = Unit(unit.factor, unit.name if unit.name in ("s", "ms", "µs") else "")
        refused = labels.is_refused(cell)
        frame.row_label(axes, row, name, ("○ " if refused else "") + in_words(value, short))
        frame.interval(axes, row, value, unit, theme.series_colour(0), hollow=refused, hint=name)
    axes.set_xlabel(label)
    return frame.figure_of(axes)


def why(cell: CellResult) -> str:
    """Return in a few words why a cell has no time; the problems section has the whole reason."""
    return "every repeat failed" if cell.failures else "no repeat has finished"
