"""Rank × phase: which rank spends longer than the others in what, in the cell on the most devices."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from worldsize.records import PHASES, RankSummary
from worldsize.report import labels, svg, theme
from worldsize.report.figures import frame
from worldsize.report.figures.ranks import RanksByCell
from worldsize.report.numbers import Unit, show, time_unit
from worldsize.study.records import CellResult, StudyResult

FULL_COLOUR = 0.05
"""Share of a step that a rank's phase must differ from the mean over ranks for a full colour, if none differs more."""
MOST_NUMBERED = 16
"""Ranks up to which every field holds its number."""
SHORTER, LONGER = theme.series_colour(0), theme.phase_colour("exposed_communication_s")


def widest(result: StudyResult, ranks: RanksByCell) -> CellResult | None:
    """Return the cell on the most devices, of these with the largest batch, that has ranks to show."""
    several = [cell for cell in result.cells if cell.world_size > 1 and ranks.get(cell.name)]
    return max(several, key=lambda cell: (cell.world_size, cell.global_batch), default=None)


@theme.styled
def rank_phases(result: StudyResult, ranks: RanksByCell) -> Figure:
    """A field for each rank and phase: seconds in a step, median over repeats; colour: its distance from the mean."""
    cell = widest(result, ranks)
    assert cell is not None
    phases, fields = table(ranks[cell.name])
    unit = time_unit(max(row) for row in fields)
    row_pt = 17.0 if len(fields) <= MOST_NUMBERED else max(3.0, 270 / len(fields))
    axes = frame.frame(row_pt * len(fields), legend_rows=1, left_pt=44, bottom_pt=46)
    step_s = max(sum(row) for row in fields)
    means = [sum(column) / len(fields) for column in zip(*fields, strict=True)]
    away = max((abs(v - m) for row in fields for v, m in zip(row, means, strict=True)), default=0.0)
    full = max(away, FULL_COLOUR * step_s)
    for rank, row in enumerate(fields):
        for place, (seconds, mean) in enumerate(zip(row, means, strict=True)):
            text = f"rank {rank}, {theme.PHASE_NAMES.get(phases[place], phases[place])}"
            field = _field(axes, place, rank, (seconds - mean) / full)
            words = f"{show(seconds * unit.factor)} {unit.name}, mean of the ranks {show(mean * unit.factor)}"
            svg.tip(field, f"{text}: {words}")
            if len(fields) <= MOST_NUMBERED:
                _number(axes, place, rank, seconds, unit)
    _ticks(axes, phases, len(fields))
    frame.legend(axes, _handles(full / step_s), 2)
    axes.set_xlabel(f"phase ({unit.name} in one step), {labels.cell_labels(result)[cell.name]}")
    axes.set_ylabel("rank")
    return frame.figure_of(axes)


def table(repeats: Sequence[Sequence[RankSummary]]) -> tuple[list[str], list[list[float]]]:
    """Return the phases in which any rank spent time, and for each rank its median over repeats in each (s)."""
    present = [p for p in PHASES if any(rank.phases_s.get(p, 0.0) > 0 for ranks in repeats for rank in ranks)]
    num_ranks = min(len(ranks) for ranks in repeats)
    fields = [
        [median(ranks[rank].phases_s.get(phase, 0.0) for ranks in repeats) for phase in present]
        for rank in range(num_ranks)
    ]
    return present, fields


def _field(axes: Axes, place: int, rank: int, away: float) -> Rectangle:
    """Draw one field: blue below the mean of the ranks, orange above, as opaque as it is far away (-1 to 1)."""
    bar = Rectangle((place - 0.5, rank - 0.5), 1.0, 1.0, linewidth=0, facecolor=LONGER if away > 0 else SHORTER)
    bar.set_alpha(min(abs(away), 1.0) * 0.62)
    axes.add_patch(bar)
    return bar


def _number(axes: Axes, place: int, rank: int, seconds: float, unit: Unit) -> None:
    text = show(seconds * unit.factor) if seconds > 0 else "0"
    axes.text(place, rank, text, ha="center", va="center", fontsize=7.5)


def _ticks(axes: Axes, phases: Sequence[str], num_ranks: int) -> None:
    names = [theme.PHASE_NAMES.get(phase, phase).replace(" ", "\n", 1) for phase in phases]
    axes.set_xticks(range(len(phases)), names)
    stride = max(1, -(-num_ranks // MOST_NUMBERED))
    axes.set_yticks(range(0, num_ranks, stride))
    axes.set_xlim(-0.5, len(phases) - 0.5)
    axes.set_ylim(num_ranks - 0.5, -0.5)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _handles(share: float) -> list[Patch]:
    text = f"{100 * share:.0f} % of the step"
    return [
        Patch(facecolor=LONGER, alpha=0.62, label=f"{text} above the ranks' mean"),
        Patch(facecolor=SHORTER, alpha=0.62, label="as far below"),
    ]
