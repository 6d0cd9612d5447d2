"""Whole runs of each strategy through the launcher: the same work, its bytes as predicted, and what is said of it.

Every rank is a new interpreter, so that each strategy imports all that it needs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.warm.start import Warm, ranks_forked
from worldsize.config.load import load
from worldsize.launch.local import launch
from worldsize.records import RunResult

SMALL = [
    "model.num_layers=2", "model.d_model=32", "model.context_length=32", "train.steps=7", "train.global_batch=8",
    "train.eval_samples=8", "data.max_bytes=60000", "measure.probe_rounds=2", "measure.trace_steps=1",
    "measure.matmul=false", "device.kind=cpu", "device.pin=false",
]  # fmt: skip
STRATEGIES = {
    "allreduce": ["parallel.strategy=allreduce"],
    "fsdp": ["parallel.strategy=fsdp", "train.micro_batch=2"],
    "tensor": ["parallel.strategy=tensor", "train.micro_batch=2"],
    "deepspeed": ["parallel.strategy=deepspeed", "parallel.zero_stage=3"],
    "pipeline": ["parallel.strategy=pipeline", "train.micro_batch=2"],
    "model_parallel": ["parallel.strategy=model_parallel", "train.micro_batch=2"],
    "ddp with PowerSGD": ["parallel.strategy=ddp", "parallel.gradient_compression=powersgd"],
}


def result_of(tmp_path: Path, world_size: int, overrides: list[str]) -> RunResult:
    launch(load(None, [*SMALL, *overrides]), world_size=world_size, out=tmp_path, command=["test"])
    return RunResult.model_validate_json((tmp_path / "result.json").read_text())


@pytest.fixture(scope="module")
def single(warm: Warm | None, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    with ranks_forked(warm):
        return result_of(tmp_path_factory.mktemp("single"), 1, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_is_the_same_work_as_one_devices(name: str, single: RunResult, tmp_path: Path) -> None:
    result = result_of(tmp_path, 2, STRATEGIES[name])
    assert result.samples_digest == single.samples_digest == result.samples_digest_expected
    assert result.losses == pytest.approx(single.losses, rel=1e-2 if "PowerSGD" in name else 1e-5)
    assert result.evaluations[-1].loss == pytest.approx(single.evaluations[-1].loss, rel=1e-2)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["num_parameters"] >= 2 * 12 * 32**2  # both blocks' matrices, wherever their parts are
    assert result.communication_bytes.observed == result.communication_bytes.predicted
    assert result.checksums[0].by_rank == single.checksums[0].by_rank * 2
    assert all(len(set(checksum.by_rank)) == 1 for checksum in result.checksums)
    assert sum(result.phases_s.values()) == pytest.approx(result.step_time_s.median, rel=1e-9)
    for allocated_bytes, held_bytes in zip(result.allocated_bytes, result.held_bytes, strict=True):
        assert held_bytes < allocated_bytes < held_bytes + 50 * 2**20
    exposed = result.exposed_communication
    assert exposed is not None
    cannot_skip = name not in ("allreduce", "ddp with PowerSGD")
    assert (exposed.ablation_s is None) == (exposed.ablation_absent_because is not None) == cannot_skip
    if name in ("pipeline", "model_parallel"):
        bubble = result.bubble
        assert bubble is not None
        assert bubble.stage_layers == [1, 1]
        assert bubble.num_micro_batches == 4
        assert bubble.ideal_share == pytest.approx({"pipeline": 1 / 5, "model_parallel": 1 / 2}[name])
        assert bubble.observed_s.median > 0
        assert 0 < bubble.simulated_share < 1
    else:
        assert result.bubble is None


@pytest.mark.slow
def test_a_run_of_local_steps_is_timed_by_whole_periods(single: RunResult, tmp_path: Path) -> None:
    local = ["parallel.strategy=local_sgd", "parallel.local_steps=3", "train.steps=9", "measure.warmup_steps=3"]
    result = result_of(tmp_path, 2, local)
    assert result.samples_digest == result.samples_digest_expected
    assert len(result.step_time_s.samples) == 2  # six timed steps
    assert sum(result.phases_s.values()) == pytest.approx(result.step_time_s.median, rel=1e-9)
    assert result.phases_s["exposed_communication_s"] > 0
    assert result.communication_bytes.observed == result.communication_bytes.predicted
    assert result.checksums[0].by_rank == single.checksums[0].by_rank * 2
    assert len(set(result.checksums[-1].by_rank)) == 1


BUSY = [
    "model.num_layers=4", "model.d_model=128", "model.num_heads=4", "model.context_length=128", "train.steps=30",
    "train.global_batch=16", "train.micro_batch=2", "train.eval_samples=0", "data.max_bytes=60000",
    "measure.probe_rounds=0", "measure.trace_steps=0", "measure.matmul=false", "device.kind=cpu",
]  # fmt: skip
"""Actions of a few milliseconds, beside which gloo's messages are short; each rank on a core of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "model_parallel"])
def test_the_observed_bubble_is_the_replayed_one(schedule: str, tmp_path: Path, warm_ranks_here: None) -> None:
    strategy = schedule if schedule == "model_parallel" else "pipeline"
    named = [] if schedule == "model_parallel" else [f"parallel.pipeline_schedule={schedule}"]
    loaded = load(None, [*BUSY, f"parallel.strategy={strategy}", *named])
    launch(loaded, world_size=2, out=tmp_path, command=["test"])
    bubble = RunResult.model_validate_json((tmp_path / "result.json").read_text()).bubble
    assert bubble is not None
    assert bubble.simulated_s == pytest.approx(bubble.observed_s.median, rel=0.15)
    assert bubble.simulated_share == pytest.approx(bubble.observed_share, rel=0.15)
