"""What each rank saw: in lock-step their step times must agree, and a slow one shows in its compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldsize.records import RankSummary
from worldsize.report import svg, theme
from worldsize.report.figures import frame
from worldsize.report.numbers import count, decimals, show, time_unit
from worldsize.study.records import StudyResult

RanksByCell = Mapping[str, Sequence[Sequence[RankSummary]]]
"""Cell name → its finished repeats → the ranks of each."""


@theme.styled
def per_rank(result: StudyResult, ranks: RanksByCell) -> Figure:
    """Step time and compute of every rank of every repeat, for cells on more than one device."""
    cells = [cell for cell in result.cells if cell.world_size > 1 and ranks.get(cell.name)]
    axes = frame.rows(len(cells), legend_rows=1)
    times = [rank.step_time_s for cell in cells for repeat in ranks[cell.name] for rank in repeat]
    unit = time_unit(times)
    frame.upper_limit(axes, times, unit)
    kinds = (("step time", theme.light("ink"), "o"), ("compute", theme.phase_colour("compute_s"), "s"))
    for row, cell in enumerate(cells):
        name = frame.row_text(result, cell)
        frame.row_label(axes, row, name, count(len(ranks[cell.name]), "repeat"))
        offsets = frame.spread(cell.world_size, 0.22)
        for repeat, summaries in enumerate(ranks[cell.name], start=1):
            for kind, colour, marker in kinds:
                values = [_seconds(rank, kind) * unit.factor for rank in summaries]
                heights = [row + 0.08 + offset for offset in offsets[: len(values)]]
                (dots,) = axes.plot(values, heights, linestyle="none", marker=marker, color=colour)
                dots.set(markersize=3.4, alpha=0.7, markeredgewidth=0)
                listed = ", ".join(show(value, decimals(value, 4)) for value in values)
                svg.tip(dots, f"{name}, repeat {repeat}: {kind} {listed} {unit.name} on ranks 0 to {len(values) - 1}")
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, linestyle="none", label=kind)
        for kind, colour, marker in kinds
    ]
    frame.legend(axes, handles, 2)
    axes.set_xlabel(f"median over the timed steps ({unit.name})")
    return frame.figure_of(axes)


def _seconds(rank: RankSummary, kind: str) -> float:
    return rank.step_time_s if kind == "step time" else rank.phases_s.get("compute_s", float("nan"))
