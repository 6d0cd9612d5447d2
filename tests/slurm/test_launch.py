"""`worldsize launch --on slurm` on a real Slurm of two nodes, which both are this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WAIT_S = 240
SMALL = [
    "model.num_layers=1", "model.d_model=32", "model.num_heads=2", "model.context_length=32", "data.max_bytes=300000",
    "train.eval_samples=4", "measure.probe_rounds=1", "measure.trace_steps=0", "measure.matmul=false",
    "device.pin=false",
]  # fmt: skip

pytestmark = pytest.mark.slow


class Desk:
    """A user of the cluster: types `worldsize launch`."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.folder = folder
        self.hold = folder / "hold"
        """While it exists, a run with DISTURBED waits before step 14 (held_run.py)."""
        self.environment = {
            **environment, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "100", "HOLD_FILE": str(self.hold),
        }  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "worldsize", "launch", "--on", "slurm", "--poll-every-s", "0.5", *words]
        return subprocess.Popen(
            [*command, *SMALL], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def launch(self, *words: str) -> tuple[int, str, str]:
        """Type the command and wait for it; return exit code, standard output and standard error."""
        process = self.start(*words)
        said, errors = process.communicate(timeout=WAIT_S)
        return process.returncode, said, errors

    def slurm(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def job_id(self, out: str) -> str:
        book = self.folder / out / "launch.json"
        await_(lambda: book.exists(), "a submitted job")
        return str(json.loads(book.read_text())["jobs"][0]["id"])

    def result(self, run: str) -> Any:
        return json.loads((self.folder / run / "result.json").read_text())


def await_(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s, f"waited {WAIT_S} s for {what}"
        time.sleep(0.1)


@pytest.fixture
def desk(slurm: dict[str, str], tmp_path: Path) -> Desk:
    return Desk(slurm, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The loss curve of 40 steps on two nodes that nobody interrupts."""
    desk = Desk(slurm, tmp_path_factory.mktemp("undisturbed"))
    code, _, errors = desk.launch("--nodes", "2", "--repeats", "1", "--out", "whole", *DISTURBED)
    assert code == 0, errors
    losses = desk.result("whole/runs/n2-b32/r1")["losses"]
    assert len(losses) == 40
    assert losses[-1] < losses[0]
    return list(losses)


DISTURBED = (
    "train.steps=40", "measure.window_steps=2", "checkpoint.every_steps=10",
    f"launch.python={sys.executable} {Path(__file__).parent / 'held_run.py'}",
)  # fmt: skip


def test_a_study_on_one_and_two_nodes_is_followed_collected_and_reported(desk: Desk) -> None:
    words = ("--nodes", "1,2", "--repeats", "2", "--out", "study", "--json", "train.steps=16")
    code, said, errors = desk.launch(*words)
    assert code == 0, errors
    report = json.loads(said)
    assert [(job["name"], job["state"], job["num_nodes"]) for job in report["jobs"]] == [
        ("n1", "finished", 1),
        ("n2", "finished", 2),
    ]
    assert report["jobs"][1]["nodes"] == "n[1-2]"
    one, two = report["result"]["cells"]
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert len(one["runs"]) == len(two["runs"]) == 2
    assert two["speedup"] is not None
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert (desk.folder / "study/report.html").stat().st_size > 10_000
    assert json.loads((desk.folder / "study/results.json").read_text()) == report["result"]

    code, said, errors = desk.launch(*words)  # everything is there: nothing is submitted again
    assert code == 0, errors
    assert [job["num_submissions"] for job in json.loads(said)["jobs"]] == [1, 1]


def steps_done(desk: Desk, out: str) -> int:
    rows = desk.folder / out / "runs/n2-b32/r1/steps.rank0.jsonl"
    return rows.read_text().count("\n") if rows.exists() else 0


@pytest.mark.parametrize("how", ["warned", "requeued"])
def test_a_job_interrupted_in_the_middle_ends_with_the_curve_of_an_undisturbed_one(
    desk: Desk, undisturbed: list[float], how: str
) -> None:
    desk.hold.touch()
    process = desk.start("--nodes", "2", "--repeats", "1", "--out", how, "--json", *DISTURBED)
    job = desk.job_id(how)
    await_(lambda: steps_done(desk, how) == 14, "some steps")
    if how == "warned":
        desk.slurm("scancel", "--batch", "--signal=USR1", job)
    else:
        desk.slurm("scontrol", "requeue", job)
    desk.hold.unlink()
    said, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    assert json.loads(said)["jobs"][0]["num_restarts"] == 1
    assert desk.result(f"{how}/runs/n2-b32/r1")["losses"] == undisturbed
    log = (desk.folder / how / "jobs" / f"n2.{job}.log").read_text()
    assert "resuming  step" in log
    assert ("saved a checkpoint after step" in log) == (how == "warned")


def test_a_cancelled_job_is_named_and_goes_on_when_it_is_submitted_again(desk: Desk, undisturbed: list[float]) -> None:
    words = ("--nodes", "2", "--repeats", "1", "--out", "cut", *DISTURBED)
    desk.hold.touch()
    process = desk.start(*words)
    job = desk.job_id("cut")
    await_(lambda: steps_done(desk, "cut") == 14, "some steps")
    desk.slurm("scancel", job)
    desk.hold.unlink()
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert f"Slurm job {job} (CANCELLED)" in errors
    assert "--resubmit" in errors
    assert desk.launch(*words)[0] == 1  # it is not submitted again unasked
    code, _, errors = desk.launch(*words, "--resubmit")
    assert code == 0, errors
    assert desk.result("cut/runs/n2-b32/r1")["losses"] == undisturbed


def test_a_failing_node_is_named(desk: Desk) -> None:
    python = desk.folder / "python"
    python.write_text(
        f'#!/bin/bash\n[ "$SLURMD_NODENAME" = n2 ] && [ -n "$RANK" ] && kill -9 $$\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    code, _, errors = desk.launch(
        "--nodes", "2", "--repeats", "1", "--out", "sick", f"launch.python={python}", "device.timeout_s=10"
    )
    assert code == 1
    assert "node n2 failed (rank 1: Killed)" in errors
    assert "runs/n2-b32/r1 ended with exit code" in errors
    failure = json.loads((desk.folder / "sick/runs/n2-b32/r1/failure.json").read_text())
    assert "node n2 failed" in failure["reason"]
