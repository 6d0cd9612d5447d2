"""The bookkeeping of a launch, on an engine that does what a test says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.launch.test_jobs import cells
from worldsize.errors import RunError, UserError
from worldsize.launch.engine import Status
from worldsize.launch.follow import Launch, refuse_unfinished
from worldsize.launch.jobs import Job, jobs_by_world_size, shapes_of
from worldsize.launch.records import JobRecord
from worldsize.study.grid import Planned

JOBS = jobs_by_world_size(cells([1, 2], [8]), shapes_of([1, 2], [1]), repeats=2)


class Engine:
    """Waits, runs, ends: one phase a poll. The runs named in `fails` leave no result."""

    def __init__(self, out: Path, fails: Sequence[str] = ()) -> None:
        self.out = out
        self.fails = fails
        self.submitted: list[tuple[str, list[str]]] = []
        self.num_polls: dict[str, int] = {}

    def render(self, job: Job, runs: Sequence[Planned]) -> str:
        return job.name

    def submit(self, job: Job, runs: Sequence[Planned]) -> str:
        self.submitted.append((job.name, [planned.folder for planned in runs]))
        self.num_polls[job.name] = 0
        return f"id{len(self.submitted)}"

    def poll(self, records: Sequence[JobRecord]) -> dict[str, Status]:
        statuses = {}
        for record in records:
            self.num_polls[record.name] = self.num_polls.get(record.name, 0) + 1
            phase = ("waiting", "running", "ended")[min(2, self.num_polls[record.name] - 1)]
            statuses[record.name] = Status(phase, "node1" if phase != "waiting" else None, None)  # type: ignore[arg-type]
        return statuses

    def collect(self, record: JobRecord) -> None:
        for run in record.runs:
            if run not in self.fails:
                (self.out / run).mkdir(parents=True, exist_ok=True)
                (self.out / run / "result.json").write_text("{}")

    def explain(self, record: JobRecord) -> str:
        return f"{record.id} on {record.nodes} broke"


def launch(engine: Engine, jobs: Sequence[Job] = JOBS, seen: list[str] | None = None) -> Launch:
    def on_change(records: Sequence[JobRecord]) -> None:
        if seen is not None:
            seen.append(" ".join(record.state for record in records))

    return Launch(engine, "slurm", jobs, engine.out, on_change, poll_every_s=0.0)


def test_jobs_are_submitted_once_and_followed_to_their_end(tmp_path: Path) -> None:
    engine, seen = Engine(tmp_path), []  # type: ignore[var-annotated]
    task = launch(engine, seen=seen)
    task.submit(resubmit=False)
    records = task.follow()
    assert [name for name, _ in engine.submitted] == ["n1", "n2"]
    assert [(record.state, record.nodes, record.id) for record in records] == [
        ("finished", "node1", "id1"), ("finished", "node1", "id2"),
    ]  # fmt: skip
    assert seen == [
        "waiting not submitted", "waiting waiting", "waiting waiting", "running running", "finished finished",
    ]  # fmt: skip
    task.submit(resubmit=True)
    assert len(engine.submitted) == 2


def test_the_same_command_follows_what_is_queued_already(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    launch(engine).submit(resubmit=False)
    again = launch(engine)  # another process: it knows what launch.json knows
    again.submit(resubmit=False)
    assert len(engine.submitted) == 2
    assert {record.state for record in again.follow()} == {"finished"}


def test_a_failed_job_says_why_and_is_submitted_again_only_on_request(tmp_path: Path) -> None:
    bad = "runs/n2-b8/r2"
    task = launch(Engine(tmp_path, fails=[bad]))
    task.submit(resubmit=False)
    records = task.follow()
    assert [record.state for record in records] == ["finished", "failed"]
    assert json.loads((tmp_path / bad / "failure.json").read_text())["reason"] == "id2 on node1 broke"
    with pytest.raises(RunError, match=r"1 of 2 jobs failed:\n  n2: id2 on node1 broke\n.*--resubmit"):
        refuse_unfinished(records)
    engine = Engine(tmp_path)
    launch(engine).submit(resubmit=False)
    assert engine.submitted == []
    launch(engine).submit(resubmit=True)
    assert engine.submitted == [("n2", [bad])]  # what is finished is not run again
    assert [record.num_submissions for record in launch(engine).follow()] == [1, 2]


def test_more_repeats_are_a_further_submission(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    task = launch(engine)
    task.submit(resubmit=False)
    task.follow()
    more = jobs_by_world_size(cells([1, 2], [8]), shapes_of([1, 2], [1]), repeats=3)
    launch(engine, more).submit(resubmit=False)
    assert [runs for _, runs in engine.submitted[2:]] == [["runs/n1-b8/r3"], ["runs/n2-b8/r3"]]


def test_a_folder_of_another_engine_or_shape_is_refused(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    launch(engine).submit(resubmit=False)
    with pytest.raises(UserError, match="was launched on slurm, not on modal"):
        Launch(engine, "modal", JOBS, tmp_path, lambda _: None).submit(resubmit=False)
    wider = jobs_by_world_size(cells([1, 2], [8]), shapes_of([1], [1, 2]), repeats=2)
    with pytest.raises(UserError, match=r"with 2 × 1 .* not 1 × 2"):
        launch(engine, wider).submit(resubmit=False)
