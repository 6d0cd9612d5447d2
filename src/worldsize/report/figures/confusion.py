"""Which class is taken for which: a field for each pair, in the cell on the most devices."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from worldsize.report import labels, svg, theme
from worldsize.report.cells import classified
from worldsize.report.figures import frame
from worldsize.study.records import StudyResult

MOST_NUMBERED = 12
"""Classes up to which every field holds its number."""


@theme.styled
def confusion(result: StudyResult) -> Figure:
    """A line for each true class, a column for each found one: the share of the line, as percent and as depth."""
    cell = classified(result)
    assert cell is not None
    assert cell.held_out is not None
    names = [labels.plain(name, 14) for name in cell.held_out.labels]
    counts = cell.held_out.confusion
    size_pt = min(22.0, 240.0 / len(counts))
    axes = frame.frame(size_pt * len(counts), left_pt=74, bottom_pt=46)
    for true, line in enumerate(counts):
        for found, count in enumerate(line):
            share = count / max(sum(line), 1)
            colour = theme.series_colour(0) if true == found else theme.series_colour(1)
            field = Rectangle((found - 0.5, true - 0.5), 1.0, 1.0, linewidth=0, facecolor=colour)
            field.set_alpha(0.75 * share**0.5)
            axes.add_patch(field)
            svg.tip(field, f"{names[true]} taken for {names[found]}: {count:,} of {sum(line):,} ({100 * share:.1f} %)")
            if len(counts) <= MOST_NUMBERED:
                axes.text(found, true, f"{100 * share:.1f}", ha="center", va="center", fontsize=7.5)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("class found (% of the true class's rows)")
    axes.set_ylabel("true class")
    return frame.figure_of(axes)
