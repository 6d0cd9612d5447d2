"""`--until 3%`: rounds are added, for the cells that need them, until every ratio's interval is narrow enough.

A round holds the cells whose interval is still too wide and the baselines that they are compared with, interleaved like
every round, so that repeat r of a cell always has repeat r of its baseline beside it. Which cells run in a round
follows from the rounds before it alone: a study that was stopped goes on as it would have gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from worldsize.records import Problem
from worldsize.scaling.speedup import relative_width
from worldsize.study.cells import MeasuredCell, of_study
from worldsize.study.grid import Cell, Planned, rotated
from worldsize.study.records import CellResult, StudyPlan


def width(cell: CellResult, has_cells: bool) -> float | None:
    """Return the width of what --until narrows, as a share of its median; None where no repeat would narrow it.

    That is the speedup (under weak scaling the efficiency), and in a study of one world size the step time. A cell that
    the same-work gate refuses has no ratio, however often it is repeated.
    """
    if cell.is_baseline:
        return None if has_cells or cell.step_time_s is None else relative_width(cell.step_time_s)
    ratio = cell.speedup or cell.efficiency
    return relative_width(ratio) if ratio else None


def too_wide(results: Sequence[CellResult], until: float) -> dict[str, float]:
    """Return name → width of the cells whose interval is wider than `until`."""
    has_cells = any(not cell.is_baseline for cell in results)
    widths = {cell.name: width(cell, has_cells) for cell in results}
    return {name: wide for name, wide in widths.items() if wide is not None and wide > until}


def next_round(folder: Path, plan: StudyPlan, cells: Sequence[Cell], repeat: int) -> list[Planned]:
    """Return the runs of round `repeat`: none when every interval is narrow enough by the rounds before it."""
    from worldsize.study.results import judged

    if plan.until is None:
        return []
    before = [up_to(cell, repeat - 1) for cell in of_study(folder, plan)]
    wide = too_wide(judged(before, plan.scaling, override=False, folder=folder), plan.until)
    needed = {name for cell in cells if cell.name in wide for name in (cell.name, cell.baseline)}
    return [Planned(cell, repeat) for cell in rotated(cells, repeat) if cell.name in needed]


def up_to(cell: MeasuredCell, last: int) -> MeasuredCell:
    """Return the cell as it was after round `last`."""
    kept = [(run, number) for run, number in zip(cell.runs, cell.rounds, strict=True) if number <= last]
    return replace(cell, runs=tuple(run for run, _ in kept), rounds=tuple(number for _, number in kept))


def unreached(plan: StudyPlan, results: Sequence[CellResult], num_rounds: Mapping[str, int]) -> list[Problem]:
    """Return the problem of a study whose intervals are wider than was asked: rounds used up, or not all run yet."""
    wide = too_wide(results, plan.until) if plan.until else {}
    if plan.until is None or not wide:
        return []
    listed = ", ".join(f"{name} {share * 100:.1f} % after {num_rounds[name]} repeats" for name, share in wide.items())
    message = f"intervals are still wider than {percent_text(plan.until)}: {listed}"
    if all(num_rounds[name] >= plan.num_rounds for name in wide):
        advice = (
            f"{plan.num_rounds} repeats are the most that --max-repeats allows. Take a quieter machine, longer runs "
            f"(train.steps) or more --max-repeats"
        )
    else:
        advice = "the same command goes on"
    return [Problem(rule="until-not-reached", severity="warns", message=f"{message}; {advice}")]


def percent_text(share: float) -> str:
    """Write a share as --until takes it: '3%', '0.5%'."""
    return f"{share * 100:g}%"
