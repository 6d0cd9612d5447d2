"""Loss curves of all cells laid over each other: by step, where equal work must coincide, and by time, where more
devices must get there sooner."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldsize.report import labels, svg, theme
from worldsize.report.figures import frame
from worldsize.report.numbers import count, show, time_unit
from worldsize.study.records import CellResult, StudyResult

NARROWEST_PT, WIDE_PT = 1.0, 3.2


def has_losses(result: StudyResult) -> bool:
    """Whether any cell recorded a loss."""
    return any(cell.losses for cell in result.cells)


@theme.styled
def loss_by_step(result: StudyResult) -> Figure:
    """Training loss against the optimizer step."""
    axes = _curves(result, seconds_per_step=lambda _cell: 1.0, factor=1.0, coincide=True)
    axes.set_xlabel("optimizer step")
    return frame.figure_of(axes)


@theme.styled
def loss_by_time(result: StudyResult) -> Figure:
    """Training loss against training time: the step's number times the cell's median step time."""
    timed = [cell for cell in result.cells if cell.step_time_s]
    unit = time_unit(cell.step_time_s.median * len(cell.losses) for cell in timed if cell.step_time_s)
    axes = _curves(result, lambda cell: cell.step_time_s.median if cell.step_time_s else None, unit.factor)
    axes.set_xlabel(f"training time at the median step time ({unit.name})")
    return frame.figure_of(axes)


def _curves(
    result: StudyResult,
    seconds_per_step: Callable[[CellResult], float | None],
    factor: float,
    *,
    coincide: bool = False,
) -> Axes:
    """Draw a curve a cell: colour for the series, dashes for the world size; curves that coincide show as wide lines
    under narrow ones, by world size or, where there is one only, by series. Many that do begin wider."""
    lines = labels.series(result)
    sizes = sorted({cell.world_size for cell in result.cells if cell.losses})
    colours = _colours(lines, sizes)
    handles = _handles(lines, sizes, colours)
    axes = frame.frame(190, legend_rows=frame.legend_rows(frame.names_of(handles)), left_pt=40)
    axes.grid(axis="y")
    nested = coincide and len(sizes) == 1
    widest_pt = min(NARROWEST_PT + 1.3 * (len(lines) - 1), 9.0) if nested else WIDE_PT
    drawn: set[str] = set()
    for index, line in enumerate(lines):
        for cell in line.cells:
            pace = seconds_per_step(cell)
            if cell.name in drawn or not cell.losses or pace is None:
                continue
            drawn.add(cell.name)
            place = sizes.index(cell.world_size)
            times = [pace * factor * (step + 1) for step in range(len(cell.losses))]
            (curve,) = axes.plot(times, cell.losses, color=colours[index, place], linestyle=_dashes(place))
            depth = place / (len(sizes) - 1) if len(sizes) > 1 else index / max(len(lines) - 1, 1)
            curve.set_linewidth(widest_pt - (widest_pt - NARROWEST_PT) * depth)
            curve.set_alpha(0.5 if place == 0 and len(sizes) > 1 else 1.0)
            svg.tip(curve, f"{labels.describe(cell)}: loss {show(cell.losses[-1], 4)} after {len(cell.losses)} steps")
    frame.legend(axes, handles)
    axes.set_ylabel("training loss (nats per token)")
    axes.set_xlim(left=0)
    return axes


def _colours(lines: list[labels.Series], sizes: list[int]) -> dict[tuple[int, int], str]:
    """Return a colour per (series, world size): by series, or by world size when there is one series only."""
    alone = len(lines) == 1
    return {
        (index, place): theme.series_colour(place if alone else index)
        for index in range(len(lines))
        for place in range(len(sizes))
    }


def _handles(lines: list[labels.Series], sizes: list[int], colours: dict[tuple[int, int], str]) -> list[Line2D]:
    alone = len(lines) == 1
    by_series = [
        Line2D([], [], color=colours[index, 0], linewidth=2, label=line.label)
        for index, line in enumerate(lines)
        if not alone and sizes
    ]
    by_size = [
        Line2D(
            [],
            [],
            color=colours[0, place] if alone else theme.light("muted"),
            linestyle=_dashes(place),
            linewidth=1.6,
            label=count(size, "device"),
        )
        for place, size in enumerate(sizes)
    ]
    return by_series + by_size


def _dashes(place: int) -> tuple[float, tuple[float, ...]]:
    return theme.DASHES[place % len(theme.DASHES)]
