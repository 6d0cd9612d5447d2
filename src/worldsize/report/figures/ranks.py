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
            for offset, rank in zip(offsets, summaries, strict=False):
                values_s = (rank.step_time_s, rank.phases_s.get("compute_s", float("nan")))
                for (kind, colour, marker), value_s in zip(kinds, values_s, strict=True):
                    (dot,) = axes.plot(value_s * unit.factor, row + 0.08 + offset, linestyle="none", marker=marker)
                    dot.set(color=colour, markersize=3.4, alpha=0.7, markeredgewidth=0)
                    text = f"{show(value_s * unit.factor, decimals(value_s * unit.factor, 4))} {unit.name}"
                    svg.tip(dot, f"{name}, rank {rank.rank}, repeat {repeat}: {kind} {text}")
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, linestyle="none", label=kind)
        for kind, colour, marker in kinds
    ]
    frame.legend(axes, handles, 2)
    axes.set_xlabel(f"median over the timed steps ({unit.name})")
    return frame.figure_of(axes)
