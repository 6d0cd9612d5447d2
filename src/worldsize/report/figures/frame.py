"""The frame that every figure stands in: one column of a paper wide, margins in points, a legend above the axes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from worldsize.records import Measured
from worldsize.report import labels, svg, theme
from worldsize.report.numbers import ONE, Unit, decimals, in_words, show
from worldsize.study.records import CellResult, StudyResult

WIDTH_PT = 320.0
"""A column of a paper; on a phone one point is about one pixel."""
ROW_PT = 30.0
"""Height of one cell's row: its label above its data."""
LEGEND_ROW_PT = 14.0
LONGEST_IN_HALF = 26
"""Characters of a legend's name that fit into half its width."""


def frame(height_pt: float, *, legend_rows: int = 0, left_pt: float = 40.0, bottom_pt: float = 34.0) -> Axes:
    """Return axes `height_pt` high in a new figure of WIDTH_PT, with room for `legend_rows` above them."""
    top_pt = 8.0 + legend_rows * LEGEND_ROW_PT
    total_pt = height_pt + top_pt + bottom_pt
    figure = Figure(figsize=(WIDTH_PT / 72, total_pt / 72))
    right_pt = 10.0
    box = (left_pt / WIDTH_PT, bottom_pt / total_pt, 1 - (left_pt + right_pt) / WIDTH_PT, height_pt / total_pt)
    axes = figure.add_axes(box)
    axes.set_axisbelow(True)
    return axes


def figure_of(axes: Axes) -> Figure:
    """Return the figure that `axes` stand in."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def names_of(handles: Sequence[Line2D | Patch]) -> list[str]:
    """Return what a legend of these handles says."""
    return [str(handle.get_label()) for handle in handles]


def legend_columns(names: Sequence[str]) -> int:
    """Return how many columns a legend of these names has: two, if no name is too long for its half."""
    return 2 if len(names) > 1 and max(map(len, names)) <= LONGEST_IN_HALF else 1


def legend_rows(names: Sequence[str]) -> int:
    """Return how many rows it has."""
    return -(-len(names) // legend_columns(names))


def legend(axes: Axes, handles: Sequence[Line2D | Patch], columns: int | None = None) -> None:
    """Put a legend above the axes, flush left, in the columns given or in as many as its names allow."""
    if not handles:
        return
    columns = columns or legend_columns(names_of(handles))
    axes.legend(
        handles=list(handles),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.4,
        labelspacing=0.35,
        borderpad=0.1,
        labelcolor=theme.light("ink"),
    )


def rows(num_rows: int, *, legend_rows: int = 0) -> Axes:
    """Return axes for one row a cell, first on top: row i's data lie at y = i, its label above them."""
    axes = frame(ROW_PT * max(num_rows, 1), legend_rows=legend_rows, left_pt=8.0)
    axes.set_ylim(max(num_rows, 1) - 0.35, -0.95)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return axes


def row_label(axes: Axes, row: int, text: str, value: str, *, muted: bool = False) -> None:
    """Write a cell's label at the left of its row, and its value at the right."""
    across = axes.get_yaxis_transform()
    colour = theme.light("muted" if muted else "ink")
    axes.text(0.0, row - 0.42, text, transform=across, va="center", ha="left", fontsize=8, color=colour)
    axes.text(1.0, row - 0.42, value, transform=across, va="center", ha="right", fontsize=8, color=theme.light("muted"))


def row_text(result: StudyResult, cell: CellResult) -> str:
    """Return the label of a cell's row, with † where an override printed its speedup, ‡ where it is of other maths."""
    mark = " †" if cell.overridden else " ‡" if cell.other_maths else ""
    return labels.cell_labels(result)[cell.name] + mark


def interval(axes: Axes, row: float, value: Measured, unit: Unit, colour: str, *, hollow: bool, hint: str) -> None:
    """Draw a measured number along x: its interval as a bar, its median as a tick, every repeat as a dot."""
    low, middle, high = (v * unit.factor for v in (value.low, value.median, value.high))
    row += 0.1
    axes.plot([low, high], [row, row], color=colour, linewidth=3.2, alpha=0.35, solid_capstyle="butt", zorder=2)
    axes.plot([middle, middle], [row - 0.24, row + 0.24], color=colour, linewidth=1.4, solid_capstyle="butt", zorder=3)
    repeats = ", ".join(show(sample * unit.factor, decimals(sample * unit.factor, 4)) for sample in value.samples)
    (dots,) = axes.plot(
        [sample * unit.factor for sample in value.samples],
        [row + offset for offset in spread(len(value.samples))],
        linestyle="none",
        marker="o",
        markersize=3.8,
        markerfacecolor=theme.light("paper") if hollow else colour,
        markeredgecolor=colour if hollow else theme.light("paper"),
        markeredgewidth=0.8 if hollow else 0.5,
        zorder=4,
    )
    svg.tip(dots, f"{hint}: {in_words(value, unit)}; repeats {repeats} {unit.name}")


def spread(num: int, width: float = 0.14) -> list[float]:
    """Return `num` small offsets around 0, alternating, so that equal repeats stay visible beside each other."""
    if num < 2:
        return [0.0] * num
    return [width * (2 * ((index * 2) % num if num % 2 else index) / (num - 1) - 1) for index in range(num)]


def device_axis(axes: Axes, world_sizes: Sequence[int]) -> bool:
    """Set up x as devices with a tick at each measured world size. Returns whether the axis is logarithmic."""
    sizes = sorted(set(world_sizes)) or [1]
    logarithmic = len(sizes) > 2 and sizes[-1] / sizes[0] > 8
    if logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    else:
        margin = max(0.12 * (sizes[-1] - sizes[0]), 0.3)
        axes.set_xlim(sizes[0] - margin, sizes[-1] + margin)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("devices")
    return logarithmic


def upper_limit(axes: Axes, values: Sequence[float], unit: Unit = ONE) -> None:
    """Let x begin at zero, so that lengths compare, and end a little above the largest value."""
    largest = max((value * unit.factor for value in values), default=0.0)
    axes.set_xlim(0, largest * 1.06 if largest > 0 else 1.0)
