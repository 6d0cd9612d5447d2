"""A run's folder on disk: one writer at a time, append-only while it runs, `result.json` last and atomically."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldsize.config.schema import Config
from worldsize.errors import UserError
from worldsize.records import Record, RunRecord, RunResult, StepRow

RUN, RESULT, LOCK = "run.json", "result.json", ".lock"


def steps_name(rank: int) -> str:
    return f"steps.rank{rank}.jsonl"


def trace_name(rank: int) -> str:
    return f"trace.rank{rank}.json.gz"


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or none: a temporary beside it, flushed to the disk, then renamed over it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_record(path: Path, record: Record) -> None:
    """Write a record as indented JSON, atomically."""
    write_atomically(path, record.model_dump_json(indent=1) + "\n")


def is_finished(folder: Path) -> bool:
    return (folder / RESULT).exists()


def finished_config_differs(folder: Path, config: Mapping[str, Any], world_size: int) -> list[str]:
    """Return how a finished run's config differs from `config`, 'key: theirs → ours' each; empty when it is the same.

    Raises UserError when its run.json cannot be read.
    """
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        theirs = {**known_keys(record["config"]), "world size": record["world_size"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / RUN} cannot be read ({error}). Move the folder away, or give another --out."
        ) from error
    ours = {**known_keys(config), "world size": world_size}
    keys = [*theirs, *(key for key in ours if key not in theirs)]
    return [f"{k}: {theirs.get(k)!r} → {ours.get(k)!r}" for k in keys if theirs.get(k) != ours.get(k)]


def known_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config's dotted keys; those that came after it was written have their default."""
    return {**flatten(Config().model_dump(mode="json")), **flatten(config)}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping's leaves under dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder's lock. Raises UserError when another process writes there. The kernel frees it if we die."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder} is being written by another {what}. Wait for it, or give another --out."
            ) from None
        yield


def claim(folder: Path, config: Mapping[str, Any], world_size: int) -> bool:
    """Make a locked folder ready for a run; return False when it already holds this very run, finished.

    Raises UserError when it holds a finished run of another config. What an unfinished run left is removed, but for its
    checkpoints, which hold all that is needed to go on.
    """
    if not is_finished(folder):
        clear_unfinished(folder)
        return True
    differences = finished_config_differs(folder, config, world_size)
    if differences:
        raise UserError(
            f"{folder} holds a finished run of another config ({'; '.join(differences)}). A finished run is never "
            "overwritten: give another --out, or move it away."
        )
    return False


class RunWriter:
    """One rank's files in a run's folder."""

    def __init__(self, folder: Path, rank: int, earlier: Sequence[StepRow] = ()) -> None:
        """`earlier` are the rows of steps done before, when a run goes on: they replace what the file held."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._path = folder / steps_name(rank)
        self._steps = self._path.open("w", encoding="utf-8")
        self.write_steps(earlier)

    def write_run(self, record: RunRecord) -> None:
        """Write run.json. Rank 0 only."""
        write_record(self.folder / RUN, record)

    def write_steps(self, rows: Sequence[StepRow]) -> None:
        """Append rows, whole lines at a time, to this rank's file."""
        self._steps.write("".join(row.model_dump_json() + "\n" for row in rows))
        self._steps.flush()

    def rows_so_far(self) -> bytes:
        """Return this rank's file of steps."""
        return self._path.read_bytes()

    def write_result(self, result: RunResult) -> None:
        """Write result.json: the run is finished. Rank 0 only, after everything else."""
        write_record(self.folder / RESULT, result)

    def close(self) -> None:
        self._steps.close()


def clear_unfinished(folder: Path) -> None:
    """Remove what an unfinished run left. Never called on a finished one."""
    for pattern in (RUN, "steps.rank*.jsonl", "trace.rank*.json.gz", "error.rank*.txt", "failure.json"):
        for path in folder.glob(pattern):
            path.unlink()
