"""From run folders to a StudyResult: the table, the problems and the verdict. Reads only; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from worldsize.errors import UserError
from worldsize.measure.statistics import measured
from worldsize.measure.summary import disagreement
from worldsize.records import PHASES, Bubble, ExposedCommunication, Measured, Problem
from worldsize.scaling.batch_noise import noise_scale_of
from worldsize.scaling.break_even import break_even, wire_of
from worldsize.scaling.lost_time import lost_time
from worldsize.scaling.outlook import fits_of
from worldsize.scaling.pair import Pair, is_sound
from worldsize.scaling.questions import Runs, ask
from worldsize.scaling.rules import RULES, SPEEDUP_RULES, Context
from worldsize.scaling.speedup import inverse, ratio, scaled, step_time
from worldsize.scaling.time_to_loss import add_times_to_loss
from worldsize.scaling.verdict import subject_of, verdict
from worldsize.study.cells import MeasuredCell, baselines, of_runs, of_study, paired_rounds
from worldsize.study.files import Run, read_plan, read_run, read_steps
from worldsize.study.grid import Scaling
from worldsize.study.held_out import held_out_of
from worldsize.study.records import CellResult, StudyPlan, StudyResult
from worldsize.study.remedies import sentences, trials
from worldsize.study.until import unreached

__all__ = ["Run", "analyse", "from_runs", "read_run", "read_steps"]

LEAST_BOOKED = 0.1
"""Phases that sum to less than this share of the step say nothing about it (rule books-do-not-close)."""


def analyse(folder: Path, override: bool = False) -> StudyResult:
    """Read a study's folder and return what it measured so far; runs that are missing are named, not guessed.

    `override` prints speedups that the same-work gate refuses, marked `overridden`. Raises UserError that names the bad
    file and field.
    """
    if not (folder / "study.json").is_file():
        raise UserError(f"{folder} is no study folder: it has no study.json. Give the folder that --out named.")
    plan = read_plan(folder)
    cells = of_study(folder, plan)
    title, problems = folder.resolve().name, _unfinished(cells, plan)
    result = _result(cells, plan.scaling, override, title, folder, problems, plan.command, plan.target_loss)
    result.remedies = trials(folder, plan)
    result.verdict.next[:0] = sentences(result.remedies)
    result.problems += unreached(plan, result.cells, {cell.name: max(cell.rounds, default=0) for cell in cells})
    return result


def from_runs(
    folders: Sequence[Path], *, scaling: Scaling | None = None, override: bool = False, title: str | None = None
) -> StudyResult:
    """Read any run folders and return them as a study: grouped into cells by what differs between their configs.

    `scaling` None reads the mode off the batches. Raises UserError that names the bad file and field.
    """
    if not folders:
        raise UserError("no run folders were given. Give at least one folder that holds run.json and result.json.")
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    runs = [read_run(folder) for folder in distinct]
    cells, scaling = of_runs(runs, scaling)
    named = title or (distinct[0].resolve().name if len(distinct) == 1 else f"{len(distinct)} runs")
    return _result(cells, scaling, override, named, None, [], [])


def _unfinished(cells: Sequence[MeasuredCell], plan: StudyPlan) -> list[Problem]:
    """Return the problem of a study whose planned runs are not all there; rounds that --until may add do not count."""
    num_planned = len(cells) * plan.repeats
    num_finished = sum(sum(number <= plan.repeats for number in cell.rounds) for cell in cells)
    num_failed = sum(len(cell.failures) for cell in cells)
    if num_finished == num_planned:
        return []
    message = (
        f"{num_finished} of {num_planned} runs finished, {num_failed} failed; the same command goes on with the rest"
    )
    return [Problem(rule="unfinished", severity="warns", message=message)]


def _result(
    cells: Sequence[MeasuredCell],
    scaling: Scaling,
    override: bool,
    title: str,
    folder: Path | None,
    problems: list[Problem],
    command: list[str],
    target_loss: float | None = None,
) -> StudyResult:
    results = judged(cells, scaling, override, folder)
    runs = {cell.name: cell.runs for cell in cells}
    _explain(results, runs, scaling)
    add_times_to_loss(results, runs, target_loss)
    fits = fits_of(results, runs, scaling)
    subject = subject_of(results, scaling)
    answers = ask(subject, results, runs) if subject and is_sound(subject.cell) else None
    by_devices = sorted((cell for cell in cells if cell.runs), key=lambda cell: cell.world_size)
    first = by_devices[0].runs[0] if by_devices else None
    return StudyResult(
        title=title,
        scaling=scaling,
        cells=results,
        verdict=verdict(results, runs, scaling, fits, answers),
        problems=problems,
        fits=fits,
        what_ifs=answers.what_ifs if answers else [],
        environment=by_devices[-1].runs[0].record.environment if by_devices else None,
        config=first.record.config if first else {},
        command=command or (first.record.command if first else []),
    )


def judged(cells: Sequence[MeasuredCell], scaling: Scaling, override: bool, folder: Path | None) -> list[CellResult]:
    """Return the cells with their measurements, problems and, where the gate lets them pass, speedups."""
    base_of = baselines(cells)
    done: dict[str, CellResult] = {}
    for cell in sorted(cells, key=lambda cell: not cell.is_baseline):  # a baseline's own faults come first
        base = base_of[cell.name]
        known = done[base.name].problems if base.name in done else []
        done[cell.name] = _cell(cell, base, known, scaling, override, folder)
    return [done[cell.name] for cell in cells]


def _explain(results: Sequence[CellResult], runs: Runs, scaling: Scaling) -> None:
    """Fill in what each cell's own measurements explain: where its time went and how noisy its gradient is."""
    by_name = {cell.name: cell for cell in results}
    for cell in results:
        if cell.baseline and is_sound(cell):
            pair = Pair(cell, by_name[cell.baseline], scaling)
            cell.lost_time = lost_time(pair, runs[cell.name], runs[cell.baseline])
            cell.break_even = break_even(pair, wire_of(runs[cell.name]))
        if runs[cell.name]:
            cell.noise_scale = noise_scale_of(runs[cell.name])


def _cell(
    cell: MeasuredCell,
    base: MeasuredCell,
    baseline_problems: Sequence[Problem],
    scaling: Scaling,
    override: bool,
    folder: Path | None,
) -> CellResult:
    """Sum up one cell: its times, its problems and, where the gate lets it pass, its speedup."""
    result = CellResult(
        name=cell.name,
        world_size=cell.world_size,
        global_batch=cell.global_batch,
        vary=cell.vary,
        is_baseline=cell.is_baseline,
        baseline=None if cell.is_baseline else base.name,
        runs=[_relative(run.folder, folder) for run in cell.runs],
        failures=list(cell.failures),
    )
    if not cell.runs:
        return result
    _add_measurements(result, cell)
    assert result.step_time_s is not None
    context = Context(cell, base, scaling, result.step_time_s, baseline_problems)
    problems = [problem for rule in RULES for problem in rule(context)]
    problems.sort(key=lambda problem: problem.severity != "blocks")
    blocked = any(problem.severity == "blocks" for problem in problems)
    if not cell.is_baseline and base.runs and (override or not blocked):
        gain = _add_speedup(result, cell, base, scaling)
        result.overridden = blocked
        context = Context(cell, base, scaling, result.step_time_s, baseline_problems, gain)
        problems += [problem for rule in SPEEDUP_RULES for problem in rule(context)]
    result.problems = problems
    result.other_maths = any(problem.rule == "other-maths" for problem in problems)
    return result


def _relative(path: Path, folder: Path | None) -> str:
    return str(path.relative_to(folder) if folder else path)


def _add_measurements(result: CellResult, cell: MeasuredCell) -> None:
    """Fill in what the runs measured: medians over repeats."""
    first = cell.runs[0]
    time = step_time([run.step_times_s for run in cell.runs])
    result.step_time_s = time
    result.tokens_per_s = inverse(time, first.result.num_tokens / first.result.num_steps)
    result.strategy, result.layout = first.result.strategy, first.result.layout
    result.phases_s = _phases(cell.runs, time.median)
    exposed_s = result.phases_s.get("exposed_communication_s", 0.0)
    result.exposed_communication_share = exposed_s / time.median
    result.compute_to_communication = result.phases_s.get("compute_s", 0.0) / exposed_s if exposed_s > 0 else None
    result.exposed_communication = _exposed(cell.runs)
    result.bubble = _bubble(cell.runs)
    result.peak_memory_bytes = max(max(run.result.peak_memory_bytes) for run in cell.runs)
    result.allocated_bytes = max((each for run in cell.runs for each in run.result.allocated_bytes), default=None)
    result.held_bytes = max(first.result.held_bytes, default=None)
    result.mfu = _median_of(cell.runs, lambda run: run.result.mfu)
    result.mfu_vs_measured_matmul = _median_of(cell.runs, lambda run: run.result.mfu_vs_measured_matmul)
    result.measuring_cost_share = _median_of(
        cell.runs, lambda run: run.result.measuring_cost.share_of_step if run.result.measuring_cost else None
    )
    result.losses = first.result.losses
    result.final_loss = first.result.losses[-1]
    result.held_out = held_out_of(cell.runs)


def _phases(runs: Sequence[Run], step_s: float) -> dict[str, float]:
    """Return the mean over repeats of each phase's share of the step, times the step time: the books stay closed."""
    shares: list[Mapping[str, float]] = []
    for run in runs:
        total = sum(run.result.phases_s.values())
        known = total > LEAST_BOOKED * run.result.step_time_s.median
        shares.append({name: s / total for name, s in run.result.phases_s.items()} if known else {"other_s": 1.0})
    names = [*PHASES, *sorted(set().union(*shares) - set(PHASES))]
    return {name: step_s * mean(share.get(name, 0.0) for share in shares) for name in names}


def _median_of(runs: Sequence[Run], value_of: Callable[[Run], float | None]) -> float | None:
    values = [value for run in runs if (value := value_of(run)) is not None]
    return median(values) if values else None


def _bubble(runs: Sequence[Run]) -> Bubble | None:
    """Return the bubble over the repeats: observed samples are one median a repeat."""
    known = [run.result.bubble for run in runs if run.result.bubble]
    if not known:
        return None
    means = {
        name: mean(getattr(each, name) for each in known)
        for name in ("simulated_s", "simulated_share", "observed_share")
    }
    return known[0].model_copy(update={**means, "observed_s": measured([each.observed_s.median for each in known])})


def _exposed(runs: Sequence[Run]) -> ExposedCommunication | None:
    """Return exposed communication over the repeats: each way's samples are one median a repeat."""
    exposed = [run.result.exposed_communication for run in runs if run.result.exposed_communication]
    if not exposed:
        return None

    def over_repeats(way: str) -> Measured | None:
        medians = [value.median for each in exposed if (value := getattr(each, way)) is not None]
        return measured(medians) if medians else None

    ways: dict[str, Any] = {
        way: over_repeats(way)
        for way in ("clock_s", "ablation_s", "trace_s", "contention_s", "copies_s", "traced_step_s")
    }
    pooled = ExposedCommunication(
        **ways,
        ablation_absent_because=next((e.ablation_absent_because for e in exposed if e.ablation_absent_because), None),
    )
    pooled.disagreement = disagreement(pooled, median(run.result.step_time_s.median for run in runs))
    return pooled


def _add_speedup(result: CellResult, cell: MeasuredCell, base: MeasuredCell, scaling: Scaling) -> Measured:
    """Fill in speedup and efficiency; return the speedup (weak scaling: devices × efficiency, which is not shown)."""
    base_rounds, rounds, paired = paired_rounds(base, cell)
    faster = ratio(base_rounds, rounds, paired=paired)
    devices = cell.world_size / base.world_size
    if scaling == "strong":
        result.speedup = faster
        result.efficiency = scaled(faster, 1 / devices)
        return faster
    ours, theirs = (each.runs[0].result.num_tokens / each.runs[0].result.num_steps for each in (cell, base))
    result.efficiency = scaled(faster, ours / theirs / devices)
    return scaled(result.efficiency, devices)
