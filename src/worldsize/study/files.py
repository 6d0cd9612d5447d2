"""Reading the files of runs and studies. Whatever is wrong with a file is a UserError that says where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from worldsize.config.schema import Config
from worldsize.errors import UserError
from worldsize.records import SCHEMA_VERSION, Measured, RunRecord, RunResult, StepRow
from worldsize.run_folder import flatten, is_finished
from worldsize.study.records import RunFailure, StudyPlan

AnyRecord = TypeVar("AnyRecord", bound=BaseModel)

SHORTEST_S, LONGEST_S = 1e-9, 1e9
"""A step time outside of these is no step time but a broken file."""
LARGEST_NORM = 1e30
ROUNDING = 0.01
"""How far below zero a phase may fall, as a share of the step: the rest of a subtraction of means."""


@dataclass(frozen=True)
class Run:
    """One finished run."""

    folder: Path
    record: RunRecord
    result: RunResult

    @cached_property
    def config(self) -> Config:
        """The resolved config."""
        return Config.model_validate(self.record.config)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved config as dotted key → value."""
        return flatten(self.config.model_dump())

    @cached_property
    def steps(self) -> dict[int, list[StepRow]]:
        """The step rows, rank → rows. Raises UserError that names the file, line and field at fault."""
        return read_steps(self.folder)

    @property
    def step_times_s(self) -> list[float]:
        """The slowest rank's wall time, one a timed step."""
        return self.result.step_time_s.samples


def read_run(folder: Path) -> Run:
    """Read a finished run. Raises UserError that names the file and field at fault."""
    if not is_finished(folder):
        state = "did not finish: it has no result.json" if (folder / "run.json").exists() else "is no run folder"
        raise UserError(f"{folder} {state}. Give folders that hold run.json and result.json.")
    record = read_record(folder / "run.json", RunRecord)
    run = Run(folder, record, read_record(folder / "result.json", RunResult))
    try:
        global_batch = run.config.train.global_batch
    except ValidationError as error:
        raise UserError(f"{folder / 'run.json'}: {_faults(error, 'config.')}") from error
    if global_batch >= 2**63:
        raise UserError(f"{folder / 'run.json'}: config.train.global_batch is {global_batch}. The file is damaged.")
    wrong = next(iter(_contradictions(record, run.result)), None)
    if wrong:
        raise UserError(f"{folder / 'result.json'}: {wrong}. The file is damaged, or was not written by worldsize.")
    return run


def _contradictions(record: RunRecord, result: RunResult) -> Iterable[str]:
    """Yield what cannot be in a result that a run wrote, so that no later arithmetic has to ask."""
    num_ranks = result.world_size
    counts = {"num_steps": result.num_steps, "num_samples": result.num_samples, "num_tokens": result.num_tokens}
    counts |= {"world_size": num_ranks} | {f"layout.{name}": degree for name, degree in result.layout.items()}
    yield from (f"{name} is {value}" for name, value in counts.items() if not 1 <= value < 2**63)
    if record.layout != result.layout:
        yield f"layout is {result.layout}, but run.json says {record.layout}"
    if record.world_size != num_ranks:
        yield f"world_size is {num_ranks}, but run.json says {record.world_size}"
    if [rank.rank for rank in result.ranks] != list(range(num_ranks)):
        yield f"ranks does not hold one entry for each of {num_ranks} ranks in order"
    if len(result.peak_memory_bytes) != num_ranks:
        yield f"peak_memory_bytes has {len(result.peak_memory_bytes)} entries for {num_ranks} ranks"
    for name in ("allocated_bytes", "held_bytes"):  # empty where they are not known
        if len(getattr(result, name)) not in (0, num_ranks):
            yield f"{name} has {len(getattr(result, name))} entries for {num_ranks} ranks"
    if len(result.losses) != result.num_steps:
        yield f"losses has {len(result.losses)} entries for {result.num_steps} steps"
    yield from _bad_norms("grad_norms", result.grad_norms, result.num_steps)
    yield from _bad_norms("local_grad_norms", result.local_grad_norms, result.num_steps)
    yield from _bad_times("step_time_s", result.step_time_s)
    yield from (f"ranks[{r.rank}].step_time_s is {r.step_time_s}" for r in result.ranks if not _is_time(r.step_time_s))
    every = [("phases_s", result.phases_s), *((f"ranks[{r.rank}].phases_s", r.phases_s) for r in result.ranks)]
    for name, phases in every:
        least_s = -ROUNDING * result.step_time_s.median
        yield from (f"{name}.{phase} is {s}" for phase, s in phases.items() if not least_s <= s <= LONGEST_S)
    yield from (f"checksums of step {c.step} has {len(c.by_rank)} entries for {num_ranks} ranks"
                for c in result.checksums if len(c.by_rank) != num_ranks)  # fmt: skip


def _bad_norms(name: str, norms: list[float | None], num_steps: int) -> Iterable[str]:
    if len(norms) not in (0, num_steps):
        yield f"{name} has {len(norms)} entries for {num_steps} steps"
    yield from (f"{name} holds {norm}" for norm in norms if norm is not None and not 0 <= norm <= LARGEST_NORM)


def _bad_times(name: str, measured: Measured) -> Iterable[str]:
    if not measured.samples:
        yield f"{name}.samples is empty"
    values = [measured.median, measured.low, measured.high, *measured.samples]
    yield from (f"{name} holds {value}" for value in values if not _is_time(value))


def _is_time(value: float) -> bool:
    return SHORTEST_S <= value <= LONGEST_S


def read_steps(folder: Path) -> dict[int, list[StepRow]]:
    """Read a run's step rows, rank → rows. Raises UserError that names the file, line and field at fault."""
    rows: dict[int, list[StepRow]] = {}
    for path in sorted(folder.glob("steps.rank*.jsonl")):
        rank = path.name.removeprefix("steps.rank").removesuffix(".jsonl")
        if not rank.isdigit():
            raise UserError(f"{path}: the name does not end in a rank, as in steps.rank0.jsonl")
        rows[int(rank)] = [
            _row(path, number, line) for number, line in enumerate(_read_text(path).splitlines(), 1) if line.strip()
        ]
    return rows


def _row(path: Path, number: int, line: str) -> StepRow:
    try:
        row = StepRow.model_validate_json(line)
    except ValidationError as error:
        raise UserError(f"{path}, line {number}: {_faults(error)}") from error
    for name, seconds in [("wall_s", row.wall_s), *row.phases_s.items()]:
        if not abs(seconds) <= LONGEST_S:
            raise UserError(f"{path}, line {number}: {name} is {seconds}")
    return row


def read_plan(folder: Path) -> StudyPlan:
    """Read study.json. Raises UserError that names the field at fault."""
    path = folder / "study.json"
    plan = read_record(path, StudyPlan)
    counts = [plan.repeats, *plan.world_sizes, *plan.global_batches]
    if not (plan.world_sizes and plan.global_batches and all(1 <= count < 2**31 for count in counts)):
        raise UserError(f"{path}: repeats, world_sizes and global_batches must be positive and none of them empty")
    if not all(plan.vary.values()) or plan.num_rounds > 10_000:
        raise UserError(f"{path}: vary has a key without values, or there are more than 10000 repeats")
    return plan


def read_failure(folder: Path) -> RunFailure | None:
    """Return why a run did not finish, or None where nothing says so."""
    path = folder / "failure.json"
    return read_record(path, RunFailure) if path.is_file() and not is_finished(folder) else None


def read_record(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read one JSON file as `kind`. Raises UserError that names the file and the first fields at fault."""
    text = _read_text(path)
    try:
        record = kind.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: {_faults(error)}{_version_hint(text)}") from error
    field = next(_non_finite(record.model_dump()), None)
    if field:
        raise UserError(f"{path}: {field} is not a finite number")
    return record


def _non_finite(value: Any, where: str = "") -> Iterator[str]:
    """Yield the names of fields that hold an infinity or no number at all."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where.removeprefix(".")
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _non_finite(child, f"{where}.{key}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8 text; the file is damaged") from error


def _faults(error: ValidationError, prefix: str = "") -> str:
    """Put the first faults into words: field, what is wrong, what was found."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False)[:3]:
        where = prefix + ".".join(map(str, fault["loc"]))
        found = "" if fault["type"] in ("missing", "json_invalid") else f" (found {_shortened(fault['input'])})"
        faults.append(f"{where or 'the text'}: {fault['msg']}{found}")
    return "; ".join(faults)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _version_hint(text: str) -> str:
    import json

    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, AttributeError, RecursionError):
        return ""
    if version == SCHEMA_VERSION:
        return ""
    return f". Its schema_version is {version!r}; this worldsize reads {SCHEMA_VERSION}"
