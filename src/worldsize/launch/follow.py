"""Submits what is not finished, follows it to its end and keeps launch.json, whatever the engine. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from worldsize.errors import RunError, UserError
from worldsize.launch.engine import Engine, Status
from worldsize.launch.jobs import Job
from worldsize.launch.records import EngineName, JobRecord, LaunchBook
from worldsize.run_folder import is_finished, write_record
from worldsize.study.files import read_record
from worldsize.study.records import RunFailure

BOOK = "launch.json"
OPEN = ("waiting", "running")
OnChange = Callable[[Sequence[JobRecord]], None]


@dataclass(frozen=True)
class Launch:
    """A study's jobs on one engine, and the folder where they are kept."""

    engine: Engine
    engine_name: EngineName
    jobs: Sequence[Job]
    out: Path
    on_change: OnChange
    poll_every_s: float = 5.0

    def todo(self, *, resubmit: bool) -> list[tuple[Job, JobRecord]]:
        """Return the jobs to submit: those never submitted and, with `resubmit`, those that failed.

        A job that has grown (more repeats, more cells) is submitted again once it is not in the queue any more.
        """
        records = self.records()
        return [
            (job, record)
            for job, record in zip(self.jobs, records, strict=True)
            if job.unfinished(self.out)
            and (record.state in ("not submitted", "finished") or (resubmit and record.state == "failed"))
        ]

    def records(self) -> list[JobRecord]:
        """Return a record for every job: the book's where it has one. Raises UserError where another engine's lie."""
        path = self.out / BOOK
        known: dict[str, JobRecord] = {}
        if path.exists():
            book = read_record(path, LaunchBook)
            if book.engine != self.engine_name:
                raise UserError(
                    f"{self.out} was launched on {book.engine}, not on {self.engine_name}: its speedups would compare "
                    f"other machines. Type --on {book.engine}, or choose another --out."
                )
            known = {record.name: record for record in book.jobs}
        return [self._record(job, known.get(job.name)) for job in self.jobs]

    def _record(self, job: Job, known: JobRecord | None) -> JobRecord:
        runs = [planned.folder for planned in job.runs]
        shape = job.shape
        if known is None:
            state = "not submitted" if job.unfinished(self.out) else "finished"
            return JobRecord(
                name=job.name, num_nodes=shape.num_nodes, ranks_per_node=shape.ranks_per_node, runs=runs, state=state
            )
        if (known.num_nodes, known.ranks_per_node) != (shape.num_nodes, shape.ranks_per_node):
            raise UserError(
                f"{self.out} was launched with {known.num_nodes} × {known.ranks_per_node} (nodes × devices a node) for "
                f"{job.name}, not {shape}. Type those, or choose another --out."
            )
        return known if known.state in OPEN else known.model_copy(update={"runs": runs})

    def submit(self, *, resubmit: bool) -> None:
        """Submit what is to do; each job is in the book before the next is submitted."""
        records = {record.name: record for record in self.records()}
        for job, record in self.todo(resubmit=resubmit):
            runs = job.unfinished(self.out)
            record = record.model_copy(
                update={
                    "id": self.engine.submit(job, runs),
                    "runs": [planned.folder for planned in job.runs],
                    "state": "waiting",
                    "reason": None,
                    "nodes": None,
                    "num_restarts": 0,
                    "submitted_at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "num_submissions": record.num_submissions + 1,
                }
            )
            records[record.name] = record
            self._keep(list(records.values()))

    def follow(self) -> list[JobRecord]:
        """Wait until no job is in the queue any more; return the records. Ctrl-C leaves the jobs alone."""
        records = {record.name: record for record in self.records()}
        while still_open := [record for record in records.values() if record.state in OPEN]:
            statuses = self.engine.poll(still_open)
            for record in still_open:
                records[record.name] = self._updated(record, statuses[record.name])
            self._keep(list(records.values()))
            if any(record.state in OPEN for record in records.values()):
                time.sleep(self.poll_every_s)
        return list(records.values())

    def _keep(self, records: list[JobRecord]) -> None:
        write_record(self.out / BOOK, LaunchBook(engine=self.engine_name, jobs=records))
        self.on_change(records)

    def _updated(self, record: JobRecord, status: Status) -> JobRecord:
        now = record.model_copy(
            update={
                "nodes": status.nodes or record.nodes,
                "reason": status.reason,
                "num_restarts": status.num_restarts,
                "state": status.phase if status.phase in OPEN else record.state,
            }
        )
        return now if status.phase in OPEN else self._ended(now)

    def _ended(self, record: JobRecord) -> JobRecord:
        """Collect an ended job's runs; those without a result get a failure.json that says why."""
        self.engine.collect(record)
        missing = [run for run in record.runs if not is_finished(self.out / run)]
        if not missing:
            return record.model_copy(update={"state": "finished", "reason": None})
        why = self.engine.explain(record)
        for run in missing:
            (self.out / run).mkdir(parents=True, exist_ok=True)
            write_record(self.out / run / "failure.json", RunFailure(run=run, reason=why))
        return record.model_copy(update={"state": "failed", "reason": why})


def refuse_unfinished(records: Sequence[JobRecord]) -> None:
    """Raise RunError that names every failed job, with what to type."""
    failed = [record for record in records if record.state == "failed"]
    if failed:
        lines = "\n".join(f"  {record.name}: {record.reason}" for record in failed)
        raise RunError(f"{len(failed)} of {len(records)} jobs failed:\n{lines}\nAdd --resubmit to submit them again.")
