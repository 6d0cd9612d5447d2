"""The same checks on NVIDIA GPUs: skipped where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.conformance.steps import config_of, train
from worldsize.config.load import load
from worldsize.launch.local import launch
from worldsize.measure.clock import CudaClock
from worldsize.measure.matmul import matmul_rates
from worldsize.measure.peaks import peak_flop_per_s
from worldsize.records import RunResult

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

RUN = [
    "model.num_layers=2", "model.d_model=256", "train.steps=30", "train.global_batch=16", "device.kind=cuda",
    "measure.probe_rounds=3", "measure.trace_steps=1", "data.max_bytes=500000",
]  # fmt: skip


def test_one_gpu_trains_as_the_cpu_does() -> None:
    config = config_of(device={"kind": "cuda"})
    on_gpu, on_cpu = train(0, 1, config, "cuda:0"), train(0, 1, config)
    for name, weight in on_cpu["before"].items():
        assert torch.equal(on_gpu["before"][name].cpu(), weight), name
    assert on_gpu["losses"] == pytest.approx(on_cpu["losses"], rel=1e-4)


def test_the_cuda_clock_sees_device_time_not_host_time() -> None:
    device = torch.device("cuda:0")
    clock = CudaClock(device)
    x = torch.randn(4096, 4096, device=device)
    x @ x
    clock.start()
    for _ in range(20):
        x @ x
    clock.mark("compute_s")
    clock.stop()
    (step,) = clock.window()
    flop = 20 * 2 * 4096**3
    assert step.phases_s["compute_s"] == pytest.approx(step.wall_s, rel=0.05)
    assert flop / step.phases_s["compute_s"] <= 1.1 * matmul_rates(device, torch.float32).stock


def test_no_measured_rate_exceeds_the_datasheet() -> None:
    device = torch.device("cuda:0")
    peak, _ = peak_flop_per_s(torch.cuda.get_device_name(device), "bf16")
    if peak is None:
        pytest.skip("this device's peak is not known")
    assert 0.3 * peak < matmul_rates(device, torch.bfloat16).stock <= peak


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_run_on_one_gpu(precision: str, tmp_path: Path) -> None:
    loaded = load(None, [*RUN, f"train.precision={precision}"], None)
    launch(loaded, world_size=1, out=tmp_path, command=["test"])
    result = RunResult.model_validate_json((tmp_path / "result.json").read_text())
    assert result.losses[-1] < result.losses[0]
    assert sum(result.phases_s.values()) == pytest.approx(result.step_time_s.median, rel=1e-9)
    assert result.phases_s["compute_s"] > 0
    assert result.held_bytes[0] < result.allocated_bytes[0] <= 1.1 * result.peak_memory_bytes[0]


@pytest.mark.parametrize("strategy", ["ddp", "tensor", "pipeline", "model_parallel"])
def test_two_gpus_over_nccl_equal_one(strategy: str, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    results = []
    for world_size in (1, 2):
        out = tmp_path / str(world_size)
        settings = [*RUN, f"parallel.strategy={strategy}"] if world_size > 1 else RUN
        launch(load(None, settings, None), world_size=world_size, out=out, command=["test"])
        results.append(RunResult.model_validate_json((out / "result.json").read_text()))
    one, two = results
    assert two.samples_digest == one.samples_digest
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    assert two.communication_bytes.observed == two.communication_bytes.predicted


def test_a_run_on_one_gpu_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    loaded = load(None, [*RUN, "checkpoint.every_steps=10", "model.dropout=0.1"], None)
    launch(loaded, world_size=1, out=tmp_path, command=["test"])
    whole = RunResult.model_validate_json((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints/step-00000030")
    launch(loaded, world_size=1, out=tmp_path, command=["test"], resume=True)
    resumed = RunResult.model_validate_json((tmp_path / "result.json").read_text())
    assert resumed.resumed_after == [20]
    assert resumed.losses[:20] == whole.losses[:20]
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-4), "the GPU's random numbers went on too"
