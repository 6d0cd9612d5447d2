"""`--try-remedies`: cells that are slower than their baseline run again with each remedy, judged at equal tokens.

A remedy may change the arithmetic, so the same-work gate cannot pass it. What is compared instead is the time for
equally many tokens, with the held-out loss after them beside. Each round runs the baseline and the cell as they are
beside the remedies, interleaved, so that drift hits all alike. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from worldsize.config.rules import check
from worldsize.errors import UserError
from worldsize.parallel.local_sgd import period_of
from worldsize.run_folder import is_finished
from worldsize.scaling.break_even import is_slower
from worldsize.scaling.pair import Pair
from worldsize.scaling.remedies import remedies_for
from worldsize.scaling.speedup import ratio
from worldsize.study.files import Run, read_failure, read_run
from worldsize.study.grid import Cell, Planned, cells_of, rotated, run_folder
from worldsize.study.records import CellResult, PlannedRemedy, RemedyTrial, StudyPlan, StudyResult

if TYPE_CHECKING:
    from worldsize.config.load import Loaded
    from worldsize.config.schema import Config

AS_IT_IS = "as-it-is"
KEEPS_LOSS = 0.01
"""A remedy whose held-out loss is at most this share above the baseline's keeps the loss."""

Load = Callable[[Sequence[str]], "Loaded"]
"""Loads the study's config with further overrides."""


def plan_remedies(result: StudyResult, plan: StudyPlan, load: Load) -> list[PlannedRemedy]:
    """Return the runs that --try-remedies adds to a study; those that it has already stay as they are.

    Remedies are for the cells with the most devices that are slower than their baseline beyond the noise.
    """
    if plan.remedies:
        return plan.remedies
    by_name = {cell.name: cell for cell in result.cells}
    grid = {cell.name: cell for cell in cells_of(plan)}
    planned: dict[str, PlannedRemedy] = {}
    for cell in slower_cells(result):
        assert cell.baseline is not None
        for one in (by_name[cell.baseline], cell):
            planned[one.name] = _planned(grid[one.name], one.name, AS_IT_IS, "as it is", [])
        base = load(grid[cell.name].overrides)
        for remedy in remedies_for(_resolved(base, cell.world_size), cell.world_size):
            new = _planned(grid[cell.name], cell.name, remedy.name, remedy.what, remedy.overrides)
            if _is_legal(load, new):
                planned[new.name] = new
    return list(planned.values())


def slower_cells(result: StudyResult) -> list[CellResult]:
    """Return the cells that remedies are for."""
    by_name = {cell.name: cell for cell in result.cells}
    most = max((cell.world_size for cell in result.cells), default=1)
    return [
        cell
        for cell in result.cells
        if cell.baseline and cell.world_size == most and not cell.overridden
        if is_slower(Pair(cell, by_name[cell.baseline], result.scaling))
    ]


def _resolved(loaded: Loaded, world_size: int) -> Config:
    from worldsize.config.load import resolve
    from worldsize.data.task import prepare_task

    data = prepare_task(loaded.config.data)
    return resolve(loaded, world_size, data.vocab_size, data.num_classes).config


def _planned(cell: Cell, name: str, remedy: str, what: str, overrides: Sequence[str]) -> PlannedRemedy:
    return PlannedRemedy(
        name=f"{name}+{remedy}",
        cell=name,
        baseline=cell.baseline,
        remedy=remedy,
        what=what,
        world_size=cell.world_size,
        overrides=[*cell.overrides, *overrides],
    )


def _is_legal(load: Load, planned: PlannedRemedy) -> bool:
    try:
        check(load(planned.overrides).config, planned.world_size)
    except UserError:
        return False
    return True


def order_of_remedies(plan: StudyPlan) -> list[Planned]:
    """Return the runs of the remedies in rounds, interleaved like the study's own."""
    cells = [Cell(one.name, one.world_size, 0, {}, one.name) for one in plan.remedies]
    if not cells:
        return []
    return [Planned(cell, repeat) for repeat in range(1, plan.repeats + 1) for cell in rotated(cells, repeat)]


def trials(folder: Path, plan: StudyPlan) -> list[RemedyTrial]:
    """Return what each planned remedy brought, as far as its runs have finished."""
    runs = {one.name: _runs(folder, one.name, plan.repeats) for one in plan.remedies}
    return [_trial(folder, one, plan, runs) for one in plan.remedies if one.baseline != one.cell]


def _runs(folder: Path, name: str, repeats: int) -> dict[int, Run]:
    folders = {repeat: folder / run_folder(name, repeat) for repeat in range(1, repeats + 1)}
    return {repeat: read_run(path) for repeat, path in folders.items() if is_finished(path)}


def _trial(folder: Path, planned: PlannedRemedy, plan: StudyPlan, runs: dict[str, dict[int, Run]]) -> RemedyTrial:
    ours, theirs = runs[planned.name], runs[f"{planned.baseline}+{AS_IT_IS}"]
    paths = [folder / run_folder(planned.name, repeat) for repeat in range(1, plan.repeats + 1)]
    trial = RemedyTrial(
        cell=planned.cell,
        remedy=planned.remedy,
        what=planned.what,
        overrides=planned.overrides,
        runs=[run_folder(planned.name, repeat) for repeat in ours],
        failures=[failure for path in paths if (failure := read_failure(path))],
    )
    common = sorted(set(ours) & set(theirs))
    if not common:
        return trial
    trial.speedup = ratio(
        [[seconds_per_token(theirs[repeat])] for repeat in common],
        [[seconds_per_token(ours[repeat])] for repeat in common],
        paired=True,
    )
    first, base = ours[common[0]], theirs[common[0]]
    trial.global_batch, trial.num_steps = first.config.train.global_batch, first.result.num_steps
    trial.num_tokens = first.result.num_tokens
    trial.payload_bytes = sum(count.payload_bytes for count in first.result.communication_bytes.predicted)
    trial.exposed_communication_share = median(_exposed_share(run) for run in ours.values())
    trial.changes_arithmetic = _differs(first, base)
    trial.loss, trial.baseline_loss = held_out_loss(first), held_out_loss(base)
    if trial.loss is not None and trial.baseline_loss and first.result.num_tokens == base.result.num_tokens:
        trial.loss_change = trial.loss / trial.baseline_loss - 1
    return trial


def seconds_per_token(run: Run) -> float:
    """Return the slowest rank's wall time a token over the timed steps, whole exchanges included.

    Not from the median step: where ranks exchange only every few steps, most steps hold no exchange at all.
    """
    every = period_of(run.config)
    walls_s = [[row.wall_s for row in rows if not row.warmup] for rows in run.steps.values()]
    kept = max(len(walls_s[0]) // every * every, 1)
    slowest_s = max(float(np.mean(walls[-kept:])) for walls in walls_s)
    return slowest_s * run.result.num_steps / run.result.num_tokens


def _exposed_share(run: Run) -> float:
    return run.result.phases_s.get("exposed_communication_s", 0.0) / run.result.step_time_s.median


def held_out_loss(run: Run) -> float | None:
    """Return the loss on held-out text after the last step, or None where none was measured."""
    return run.result.evaluations[-1].loss if run.result.evaluations else None


def _differs(run: Run, baseline: Run) -> bool:
    """Tell whether a run's arithmetic is another than the baseline's, rounding of sums aside."""
    same = ("train.global_batch", "train.steps", "optimizer.learning_rate", "parallel.gradient_compression")
    ours, theirs = run.settings, baseline.settings
    return run.record.strategy == "local_sgd" or any(ours[key] != theirs[key] for key in same)


def sentences(found: Sequence[RemedyTrial]) -> list[str]:
    """Return what was tried, best first, each with its loss beside."""
    by_cell: dict[str, list[RemedyTrial]] = {}
    for trial in found:
        by_cell.setdefault(trial.cell, []).append(trial)
    return [line for cell, group in by_cell.items() for line in _told(cell, group)]


def _told(cell: str, group: Sequence[RemedyTrial]) -> list[str]:
    now = next((trial for trial in group if trial.remedy == AS_IT_IS), None)
    tried = sorted(
        (trial for trial in group if trial.remedy != AS_IT_IS and trial.speedup),
        key=lambda trial: -(trial.speedup.median if trial.speedup else 0.0),
    )
    as_it_is = f"{_times(now)} as it is" if now and now.speedup else "not measured as it is"
    lines = [f"Tried for {cell} ({as_it_is}): {_outcome(trial)}" for trial in tried]
    failed = [f"Tried for {cell}: {trial.what}: failed, {f.reason}" for trial in group for f in trial.failures[:1]]
    return lines + failed


def _outcome(trial: RemedyTrial) -> str:
    turned = "which turns it positive" if trial.turned_positive else "which does not turn it positive"
    return f"{trial.what}: {_times(trial)} for the same tokens, {turned}; {_loss(trial)}."


def _times(trial: RemedyTrial) -> str:
    assert trial.speedup is not None
    known = len(trial.speedup.samples) > 1
    interval = f"{trial.speedup.low:.2f}-{trial.speedup.high:.2f}" if known else "one repeat"
    return f"{trial.speedup.median:.2f}x ({interval})"


def _loss(trial: RemedyTrial) -> str:
    if trial.loss_change is None:
        return "its loss was not measured on held-out text"
    kept = "" if trial.loss_change <= KEEPS_LOSS else f", more than {KEEPS_LOSS * 100:g} % worse"
    changed = "changes the arithmetic; " if trial.changes_arithmetic else ""
    return (
        f"{changed}held-out loss {trial.loss:.4f} against {trial.baseline_loss:.4f} "
        f"({trial.loss_change * 100:+.2f} %{kept})"
    )
