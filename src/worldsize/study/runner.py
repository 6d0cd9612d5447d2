"""Runs a study's grid: what is finished is kept, what failed is tried again, nothing is left half-written."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from worldsize.config.schema import Config
from worldsize.errors import RunError, UserError
from worldsize.records import Record, RunFailure, RunRecord, StudyPlan, StudyResult
from worldsize.study.cells import NOT_WORK
from worldsize.study.files import is_finished, read_plan, read_record, write_record
from worldsize.study.grid import Cell, Planned, order_of
from worldsize.study.results import analyse

if TYPE_CHECKING:
    from worldsize.config.load import Loaded
    from worldsize.launch.progress import Progress
    from worldsize.study.live import Display

Launch = Callable[..., None]
"""`worldsize.launch.local.launch`, or what stands in for it in a test."""


class RunTiming(Record):
    """One line of order.jsonl: a run that this study started, in the order of starting."""

    run: str
    started_at: str
    wall_s: float
    outcome: Literal["finished", "failed", "stopped"]


class Stopped(RunError):
    """Ctrl-C: what is finished is kept."""

    exit_code = 130


class Watcher(Protocol):
    """Who is told how the study goes on (study/live.py)."""

    def started(self, planned: Planned) -> None: ...
    def progressed(self, progress: Progress) -> None: ...
    def ended(self, planned: Planned, timing: RunTiming, reason: str | None) -> None: ...


def run_study(
    plan: StudyPlan,
    cells: Sequence[Cell],
    loaded: Mapping[str, Loaded],
    out: Path,
    *,
    display: Display,
    launch: Launch | None = None,
    override: bool = False,
) -> StudyResult:
    """Run what is not finished yet, then write results.json and report.html and return the result.

    Raises UserError when the folder holds something else or is in use, Stopped on Ctrl-C. A run that fails does not
    raise: it is recorded, and the rest goes on.
    """
    if launch is None:
        from worldsize.launch.local import launch as launch_here

        launch = launch_here
    with locked(out):
        order = order_of(cells, plan.repeats)
        refuse_other_study(out, plan)
        todo = [
            planned
            for planned in order
            if not _finished_alike(out / planned.folder, loaded[planned.cell.name], planned)
        ]
        write_record(out / "study.json", plan)
        with display.showing(order, todo):
            for planned in todo:
                _run_one(planned, loaded[planned.cell.name], out, launch, plan.command, display)
        return conclude(out, override=override)


def conclude(out: Path, *, override: bool = False) -> StudyResult:
    """Analyse a study's folder and write results.json and report.html into it."""
    from worldsize.report.html import render

    result = analyse(out, override)
    write_record(out / "results.json", result)
    page = render(result, out)
    part = out / ".report.html.part"
    part.write_text(page, encoding="utf-8")
    part.replace(out / "report.html")
    return result


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the study's folder; a second study in it is refused. The lock falls with the process that holds it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = (out / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot use {out} as the study's folder: {error.strerror}. Choose another --out.") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another study is running in {out}. Wait for it, or choose another --out.") from error
        yield


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
    gone = [
        *_missing("--nproc", plan.world_sizes, old.world_sizes),
        *_missing("--global-batch", plan.global_batches, old.global_batches),
        *([] if plan.vary.keys() == old.vary.keys() else [f"--vary {' '.join(old.vary) or '(none)'}"]),
        *(gap for key in plan.vary.keys() & old.vary.keys() for gap in _missing(f"--vary {key}=", plan.vary[key], old.vary[key])),
        *([f"--repeats {old.repeats}"] if plan.repeats < old.repeats else []),
        *(["the same smallest --nproc"] if plan.scaling == "weak" and min(plan.world_sizes) != min(old.world_sizes) else []),
    ]  # fmt: skip
    if gone:
        raise UserError(
            f"{out} holds a study that this one would not contain: it also has {', '.join(gone)}. "
            f"Add that to go on with it, or choose another --out."
        )


def _missing(option: str, new: Sequence[Any], old: Sequence[Any]) -> list[str]:
    gone = [value for value in old if value not in new]
    return [f"{option} {','.join(map(str, gone))}"] if gone else []


def differing_keys(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key → (new, old) where two config trees differ in something that changes the work."""
    flat_new, flat_old = _flat(new), _flat(old)
    return {
        key: (flat_new.get(key), flat_old.get(key))
        for key in sorted(flat_new.keys() | flat_old.keys())
        if flat_new.get(key) != flat_old.get(key) and not key.startswith(MAY_CHANGE)
    }


MAY_CHANGE = tuple(key for key in NOT_WORK if key not in ("measure.", "device.kind"))
"""Keys that may differ between a study and its continuation: sinks, caches, time limits."""


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, fields in tree.items() for name, value in fields.items()}


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
    planned: Planned, loaded: Loaded, out: Path, launch: Launch, command: Sequence[str], watcher: Watcher
) -> None:
    """Run one repeat; leave either a finished folder or one that holds only failure.json."""
    folder = out / planned.folder
    _clear(folder)
    watcher.started(planned)
    started_at, start_s = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    outcome: Literal["finished", "failed", "stopped"] = "stopped"
    reason: str | None = None
    try:
        launch(loaded, world_size=planned.cell.world_size, out=folder, command=command, on_progress=watcher.progressed)
        outcome = "finished" if is_finished(folder) else "failed"
        reason = None if outcome == "finished" else "the run ended without a result"
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped in {planned.folder}; what is finished is kept. The same command goes on from here."
        ) from None
    except UserError as error:
        outcome, reason = "failed", str(error)
    finally:
        if outcome != "finished":
            _clear(folder)
        timing = RunTiming(
            run=planned.folder, started_at=started_at, wall_s=time.monotonic() - start_s, outcome=outcome
        )
        with (out / "order.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(timing.model_dump_json() + "\n")
    if reason:
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / "failure.json", RunFailure(run=planned.folder, reason=reason))
    watcher.ended(planned, timing, reason)


def _clear(folder: Path) -> None:
    """Remove what an unfinished run left. A finished run is never removed."""
    if folder.exists() and not is_finished(folder):
        shutil.rmtree(folder)


def base_plan(
    config: Config,
    *,
    world_sizes: Sequence[int],
    global_batches: Sequence[int] | None,
    vary: Mapping[str, Sequence[Any]],
    scaling: Literal["strong", "weak"],
    repeats: int,
    command: Sequence[str],
) -> StudyPlan:
    """Return the plan; without `global_batches` the config's own is the only one."""
    return StudyPlan(
        command=list(command),
        scaling=scaling,
        repeats=repeats,
        world_sizes=sorted(world_sizes),
        global_batches=sorted(global_batches or [config.train.global_batch]),
        vary={key: list(values) for key, values in vary.items()},
        config=config.model_dump(mode="json"),
    )
