"""Runs a study's grid: what is finished is kept, what failed is tried again, nothing is left half-written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from worldsize.checkpoint_folder import checkpoints_in
from worldsize.config.schema import Config
from worldsize.errors import RunError, UserError
from worldsize.records import Record, RunRecord
from worldsize.run_folder import LOCK, clear_unfinished, is_finished, known_keys, locked, write_atomically, write_record
from worldsize.study.cells import NOT_WORK
from worldsize.study.files import read_plan, read_record
from worldsize.study.grid import Cell, Planned, order_of
from worldsize.study.records import RunFailure, StudyPlan, StudyResult
from worldsize.study.remedies import Load, order_of_remedies, plan_remedies
from worldsize.study.results import analyse
from worldsize.study.until import next_round, percent_text

if TYPE_CHECKING:
    from worldsize.config.load import Loaded
    from worldsize.study.live import Display

Launch = Callable[..., object]
"""`worldsize.launch.local.launch`, or what stands in for it in a test."""


class RunTiming(Record):
    """One line of order.jsonl: a run that this study started, in the order of starting."""

    run: str
    started_at: str
    wall_s: float
    outcome: Literal["finished", "failed", "stopped"]


class StoppedError(RunError):
    """Ctrl-C: what is finished is kept."""

    exit_code = 130


def run_study(
    plan: StudyPlan,
    cells: Sequence[Cell],
    loaded: Mapping[str, Loaded],
    out: Path,
    *,
    display: Display,
    launch: Launch,
    override: bool = False,
    load: Load | None = None,
) -> StudyResult:
    """Run what is not finished yet, then write results.json and report.html and return the result.

    `load` gives the config with further overrides; a plan that tries remedies needs it.

    Raises UserError when the folder holds something else or is in use, StoppedError on Ctrl-C, RunError when the disk
    refuses. A run that fails does not raise: it is recorded, and the rest goes on.
    """
    try:
        return _run_locked(plan, cells, loaded, out, display, launch, override, load)
    except OSError as error:
        raise RunError(f"cannot write into {out}: {error.strerror or error}. What is finished is kept.") from error


def _run_locked(
    plan: StudyPlan,
    cells: Sequence[Cell],
    loaded: Mapping[str, Loaded],
    out: Path,
    display: Display,
    launch: Launch,
    override: bool,
    load: Load | None,
) -> StudyResult:
    with locked(out, "study"):
        order = order_of(cells, plan.repeats)
        refuse_other_study(out, plan)
        plan = _with_remedies_of_before(out, plan)
        todo = _unfinished(order, loaded, out)
        write_record(out / "study.json", plan)
        with display.showing(order, todo):
            for planned in todo:
                _run_one(planned, loaded[planned.cell.name], out, launch, plan.command, display)
            for repeat in range(plan.repeats + 1, plan.num_rounds + 1):
                more = next_round(out, plan, cells, repeat)
                if not more:
                    break
                todo = _unfinished(more, loaded, out)
                display.added(more, todo, plan)
                for planned in todo:
                    _run_one(planned, loaded[planned.cell.name], out, launch, plan.command, display)
            if plan.try_remedies and load:
                _try_remedies(plan, out, launch, display, load)
        return conclude(out, override=override)


def _with_remedies_of_before(out: Path, plan: StudyPlan) -> StudyPlan:
    """Keep the remedies that an earlier call planned: what was begun goes on, and what was tried stays told."""
    if not (out / "study.json").exists():
        return plan
    return plan.model_copy(update={"remedies": read_plan(out).remedies})


def _try_remedies(plan: StudyPlan, out: Path, launch: Launch, display: Display, load: Load) -> None:
    """Run the remedies for the cells that turned out slower than their baseline."""
    plan = plan.model_copy(update={"remedies": plan_remedies(analyse(out), plan, load)})
    write_record(out / "study.json", plan)
    loaded = {one.name: load(one.overrides) for one in plan.remedies}
    order = order_of_remedies(plan)
    todo = _unfinished(order, loaded, out)
    display.trying(order, todo, [one.name for one in plan.remedies])
    for planned in todo:
        _run_one(planned, loaded[planned.cell.name], out, launch, plan.command, display)


def _unfinished(order: Sequence[Planned], loaded: Mapping[str, Loaded], out: Path) -> list[Planned]:
    return [
        planned for planned in order if not _finished_alike(out / planned.folder, loaded[planned.cell.name], planned)
    ]


def conclude(out: Path, *, override: bool = False) -> StudyResult:
    """Analyse a study's folder and write results.json and report.html into it."""
    from worldsize.report.html import render

    result = analyse(out, override)
    write_record(out / "results.json", result)
    write_atomically(out / "report.html", render(result, out))
    return result


def refuse_other_study(out: Path, plan: StudyPlan) -> None:
    """Raise UserError where the folder holds a study that this one would not continue.

    A continuation has the same base config and scaling mode, and its grid contains the old one: it may add world sizes,
    batches, values or repeats.
    """
    if not (out / "study.json").exists():
        return
    old = read_plan(out)
    differing = differing_keys(plan.config, old.config)
    if differing:
        listed = "; ".join(f"{key} is {new!r}, there {before!r}" for key, (new, before) in differing.items())
        raise UserError(f"{out} holds a study of another config: {listed}. Choose another --out, or the config it had.")
    if plan.scaling != old.scaling:
        raise UserError(f"{out} holds a study of {old.scaling} scaling, not {plan.scaling}. Choose another --out.")
    smaller = min(plan.world_sizes) < min(old.world_sizes)
    gone = [
        *_missing("--nproc", plan.world_sizes, old.world_sizes),
        *_missing("--global-batch", plan.global_batches, old.global_batches),
        *([f"no --vary {key}" for key in plan.vary.keys() - old.vary.keys()]),
        *(gap for key, values in old.vary.items() for gap in _missing(f"--vary {key}", plan.vary.get(key, []), values)),
        *([f"--repeats {old.repeats}"] if plan.repeats < old.repeats else []),
        *([_rounds_option(old)] if plan.num_rounds < old.num_rounds else []),
        *([f"--nproc from {min(old.world_sizes)}"] if plan.scaling == "weak" and smaller else []),
    ]  # fmt: skip
    if gone:
        raise UserError(
            f"{out} holds a study that this one would not contain: it also has {', '.join(gone)}. "
            f"Add that to go on with it, or choose another --out."
        )


def _rounds_option(old: StudyPlan) -> str:
    return (
        f"--until {percent_text(old.until)} --max-repeats {old.max_repeats}"
        if old.until
        else f"--repeats {old.repeats}"
    )


def _missing(option: str, new: Sequence[Any], old: Sequence[Any]) -> list[str]:
    gone = [value for value in old if value not in new]
    return [f"{option} {','.join(map(str, gone))}"] if gone else []


def differing_keys(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key → (new, old) where two config trees differ in something that changes the work."""
    flat_new, flat_old = known_keys(new), known_keys(old)
    return {
        key: (flat_new.get(key), flat_old.get(key))
        for key in sorted(flat_new.keys() | flat_old.keys())
        if flat_new.get(key) != flat_old.get(key) and not key.startswith(MAY_CHANGE)
    }


MAY_CHANGE = tuple(key for key in NOT_WORK if key not in ("measure.", "device.kind"))
"""Keys that may differ between a study and its continuation: sinks, caches, time limits."""


def _finished_alike(folder: Path, loaded: Loaded, planned: Planned) -> bool:
    """Tell whether this very run is finished. Raises UserError, with the differing keys, where another one is."""
    if not is_finished(folder):
        return False
    record = read_record(folder / "run.json", RunRecord)
    differing = {
        key: pair
        for key, pair in differing_keys(loaded.config.model_dump(mode="json"), record.config).items()
        if not _was_filled_in(key, pair[0], record)
    }
    if record.world_size != planned.cell.world_size:
        differing["world_size"] = (planned.cell.world_size, record.world_size)
    if differing:
        listed = "; ".join(f"{key} is {new!r}, there {old!r}" for key, (new, old) in differing.items())
        raise UserError(f"{folder} holds a finished run of another config: {listed}. Choose another --out.")
    return True


def _was_filled_in(key: str, asked: Any, record: RunRecord) -> bool:
    """Tell whether a value that is unset now was unset then, and was derived when the run began."""
    if asked not in (None, "auto"):
        return False
    origin = record.origins.get(key)
    return origin is None or origin.source == "derived" or key == "device.kind"


def _run_one(
    planned: Planned, loaded: Loaded, out: Path, launch: Launch, command: Sequence[str], display: Display
) -> None:
    """Run one repeat; leave a finished folder, or failure.json beside what explains it, or nothing."""
    folder = out / planned.folder
    display.started(planned)
    started_at, start_s = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    outcome: Literal["finished", "failed", "stopped"] = "stopped"
    reason: str | None = None
    try:
        launch(
            loaded,
            world_size=planned.cell.world_size,
            out=folder,
            command=command,
            on_progress=display.progressed,
            resume=bool(checkpoints_in(folder)),
        )
        outcome = "finished" if is_finished(folder) else "failed"
        reason = None if outcome == "finished" else "the run ended without a result"
    except KeyboardInterrupt:
        _remove_unfinished(folder)
        message = f"stopped in {planned.folder}; what is finished is kept. The same command goes on from here."
        raise StoppedError(message) from None
    except UserError as error:
        outcome, reason = "failed", str(error)
    finally:
        timing = RunTiming(
            run=planned.folder, started_at=started_at, wall_s=time.monotonic() - start_s, outcome=outcome
        )
        with (out / "order.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(timing.model_dump_json() + "\n")
    if reason:
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / "failure.json", RunFailure(run=planned.folder, reason=reason))
    display.ended(planned, timing, reason)


def _remove_unfinished(folder: Path) -> None:
    """Leave nothing of a run that was stopped, unless it had just finished."""
    if folder.exists() and not is_finished(folder):
        clear_unfinished(folder)
        (folder / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's file is in there
            folder.rmdir()


def base_plan(
    config: Config,
    *,
    world_sizes: Sequence[int],
    global_batches: Sequence[int] | None,
    vary: Mapping[str, Sequence[Any]],
    scaling: Literal["strong", "weak"],
    repeats: int,
    command: Sequence[str],
    until: float | None = None,
    max_repeats: int = 10,
    target_loss: float | None = None,
    try_remedies: bool = False,
) -> StudyPlan:
    """Return the plan; without `global_batches` the config's own is the only one."""
    return StudyPlan(
        command=list(command),
        scaling=scaling,
        repeats=repeats,
        world_sizes=sorted(world_sizes),
        global_batches=sorted(global_batches or [config.train.global_batch]),
        vary={key: list(values) for key, values in vary.items()},
        until=until,
        max_repeats=max_repeats,
        target_loss=target_loss,
        try_remedies=try_remedies,
        config=config.model_dump(mode="json"),
    )
