"""Runs on emulated hosts: the same work as on one machine, the link that is recorded, and a host that is cut off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.emulated import skip_without_lab
from worldsize.config.load import load
from worldsize.launch import lab
from worldsize.launch.local import launch
from worldsize.records import RunRecord, RunResult
from worldsize.study.results import from_runs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = [
    "model.num_layers=2", "model.d_model=64", "model.context_length=32", "train.steps=12", "train.global_batch=8",
    "train.eval_samples=8", "measure.warmup_steps=2", "measure.window_steps=3", "measure.probe_rounds=0",
    "measure.trace_steps=1", "measure.matmul=false", "data.max_bytes=200000", "device.kind=cpu",
]  # fmt: skip
ON_HOSTS = ["lab.hosts=2", "lab.link=100mbit"]
TIMEOUT_S = 10
"""Of a rank for the others: what the test of a cut-off waits for, and far more than two ranks' starts lie apart."""
LONGEST_S = 240
"""How long a test waits before it fails: far beyond what it takes, on machines that do other things too."""


@pytest.fixture(autouse=True)
def hosts_can_be_made() -> None:
    skip_without_lab()


def finished(out: Path) -> tuple[RunRecord, RunResult]:
    return (
        RunRecord.model_validate_json((out / "run.json").read_text()),
        RunResult.model_validate_json((out / "result.json").read_text()),
    )


def test_two_hosts_do_the_same_work_as_two_ranks_of_one(tmp_path: Path) -> None:
    for name, overrides in (("one", []), ("two", ON_HOSTS)):
        launch(load(None, [*SMALL, *overrides]), world_size=2, out=tmp_path / name, command=["test"])
    (_, here), (record, there) = finished(tmp_path / "one"), finished(tmp_path / "two")
    assert there.losses == here.losses
    assert [c.by_rank for c in there.checksums] == [c.by_rank for c in here.checksums]
    assert there.samples_digest == here.samples_digest
    environment = record.environment
    assert environment.num_hosts == 1
    assert environment.emulated is not None
    assert environment.emulated.num_hosts == 2
    assert environment.emulated.link_bit_per_s == 1e8
    assert environment.emulated.all_reduce_bit_per_s is not None
    assert environment.emulated.all_reduce_bit_per_s < 1.02e8
    cores = environment.pinned_cores
    assert cores is not None
    assert cores[0] != cores[1] or os.cpu_count() == 1
    payload_bits = 8 * sum(count.payload_bytes for count in there.communication_bytes.predicted)
    assert there.step_time_s.low > 0.9 * (payload_bits - 2 * 8 * 12_500) / 1e8  # a hard bound: tbf and its bucket
    evidence = "\n".join(from_runs([tmp_path / "two"]).verdict.evidence)
    assert "Gloo between 2 emulated hosts on one machine, links of 100 Mbit/s" in evidence
    assert "on one host:" not in evidence


def train(out: Path, *more: str, steps: int) -> subprocess.Popen[str]:
    options = [*SMALL, *ON_HOSTS, f"train.steps={steps}", f"device.timeout_s={TIMEOUT_S}", "checkpoint.every_steps=3"]
    return subprocess.Popen(
        [sys.executable, "-m", "worldsize", "train", *options, "--nproc", "2", "--out", str(out), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_steps(out: Path, at_least: int) -> None:
    until_s = time.monotonic() + LONGEST_S
    while True:
        paths = [out / f"steps.rank{rank}.jsonl" for rank in range(2)]
        if all(path.exists() and len(path.read_text().splitlines()) >= at_least for path in paths):
            return
        assert time.monotonic() < until_s, "the run makes no progress"
        time.sleep(0.05)


def test_a_host_that_is_cut_off_ends_the_run_with_a_message_and_resume_is_bit_identical(tmp_path: Path) -> None:
    steps = 60
    undisturbed = train(tmp_path / "whole", steps=steps)
    undisturbed.communicate(timeout=LONGEST_S)
    assert undisturbed.returncode == 0

    out = tmp_path / "cut"
    running = train(out, steps=steps)
    wait_for_steps(out, 9)
    lab.run(["ip", "-n", f"ws{running.pid}h1", "link", "set", lab.DEVICE, "down"])
    cut_s = time.monotonic()
    _, said = running.communicate(timeout=LONGEST_S)
    took_s = time.monotonic() - cut_s
    assert running.returncode == 1
    assert took_s < TIMEOUT_S + 50, (
        "the ranks end within the configured timeout and what ending takes on a busy machine"
    )
    assert f"did not answer within device.timeout_s={TIMEOUT_S} s" in said
    assert "a host that is cut off" in said
    assert "Traceback" not in said
    for rank in range(2):
        told = (out / f"error.rank{rank}.txt").read_text()
        assert f"rank {rank} failed at step" in told
        assert f"did not answer within device.timeout_s={TIMEOUT_S} s" in told
    assert not [name for name in lab.existing() if name.startswith(f"ws{running.pid}h")]
    assert not (out / "result.json").exists()

    resumed = train(out, "--resume", steps=steps)
    _, said = resumed.communicate(timeout=LONGEST_S)
    assert resumed.returncode == 0, said
    (_, whole), (_, cut) = finished(tmp_path / "whole"), finished(out)
    assert cut.losses == whole.losses
    assert [(c.step, c.by_rank) for c in cut.checksums][-1] == [(c.step, c.by_rank) for c in whole.checksums][-1]
    assert cut.samples_digest == whole.samples_digest == whole.samples_digest_expected
    rows = [json.loads(line)["step"] for line in (out / "steps.rank1.jsonl").read_text().splitlines()]
    assert rows == list(range(steps))
