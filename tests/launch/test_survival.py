"""Runs that are cut off and go on: what they leave equals what an undisturbed run leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.launch.test_local import with_fault
from worldsize.checkpoint_folder import checkpoints_in, damage
from worldsize.config.load import load
from worldsize.errors import RunError, UserError
from worldsize.launch.local import launch
from worldsize.launch.progress import Progress
from worldsize.records import RunResult

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_ranks")]

SMALL = [
    "model.num_layers=1", "model.d_model=32", "model.num_heads=2", "model.context_length=32",
    "train.steps=12", "train.global_batch=8", "train.eval_samples=8", "train.eval_every_steps=6",
    "train.checksum_every_steps=6", "measure.warmup_steps=2", "measure.window_steps=3", "measure.probe_rounds=0",
    "measure.trace_steps=0", "measure.matmul=false", "data.max_bytes=60000", "device.kind=cpu", "device.pin=false",
    "device.timeout_s=30", "checkpoint.every_steps=3",
]  # fmt: skip


def run(out: Path, *overrides: str, world_size: int = 2, resume: bool = False, max_restarts: int = 0) -> RunResult:
    said: list[Progress] = []
    launch(
        load(None, [*SMALL, *overrides]), world_size=world_size, out=out, command=["test"], on_progress=said.append,
        resume=resume, max_restarts=max_restarts,
    )  # fmt: skip
    return RunResult.model_validate_json((out / "result.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder)
    return folder


@pytest.fixture(scope="module")
def reference(undisturbed: Path) -> RunResult:
    return RunResult.model_validate_json((undisturbed / "result.json").read_text())


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose rank 1 died at step 7, after checkpoints at 3 and 6, and what was said of it."""
    folder = tmp_path_factory.mktemp("cut-off")
    with pytest.MonkeyPatch.context() as patched:
        with_fault(patched, "kill")
        with pytest.raises(RunError) as caught:
            run(folder, "checkpoint.asynchronous=false")
    return folder, str(caught.value)


WORK = ("losses", "samples_digest", "samples_digest_expected", "num_samples", "num_tokens", "num_steps", "grad_norms",
        "local_grad_norms", "evaluations", "checksums")  # fmt: skip


def assert_same_work(result: RunResult, reference: RunResult) -> None:
    for name in WORK:
        assert getattr(result, name) == getattr(reference, name), name


def test_a_rank_killed_and_started_again_leaves_an_undisturbed_runs_result(
    reference: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fault(monkeypatch, "kill_once")
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "killed"))
    result = run(tmp_path / "run", "checkpoint.asynchronous=false", max_restarts=1)
    assert_same_work(result, reference)
    assert result.resumed_after == [6]
    assert reference.resumed_after == []
    for rank in range(2):
        rows = [json.loads(line) for line in (tmp_path / f"run/steps.rank{rank}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(12))
        assert [row["warmup"] for row in rows] == [step in (0, 1, 6, 7) for step in range(12)]


def test_a_run_that_was_cut_off_says_what_to_type_and_goes_on(
    cut_off: tuple[Path, str], reference: RunResult, tmp_path: Path
) -> None:
    folder, message = cut_off
    out = shutil.copytree(folder, tmp_path / "run")
    assert "Run the same command with --resume to go on from the checkpoint after step 6." in message
    with pytest.raises(UserError, match=r"a checkpoint after step 6\. Add --resume to go on from there; to begin"):
        run(out)
    with pytest.raises(UserError, match=r"checkpoint of another run \(model.num_layers: 1 → 2; model.d_ff"):
        run(out, "model.num_layers=2", "model.d_ff=64", resume=True)
    result = run(out, "checkpoint.asynchronous=false", resume=True)
    assert_same_work(result, reference)
    assert [(save.step, save.num_steps) for save in result.checkpoints] == [(3, 0), (9, 0), (12, 0)]
    assert all(save.standstill_s >= save.whole_after_s > 0 for save in result.checkpoints)


@pytest.mark.parametrize(("world_size", "overrides"), [(1, []), (2, ["parallel.strategy=fsdp"])])
def test_a_run_goes_on_in_another_layout(
    world_size: int, overrides: list[str], cut_off: tuple[Path, str], reference: RunResult, tmp_path: Path
) -> None:
    out = shutil.copytree(cut_off[0], tmp_path / "run")
    result = run(out, *overrides, world_size=world_size, resume=True)
    assert result.losses == pytest.approx(reference.losses, rel=1e-5)
    assert result.losses[:6] == reference.losses[:6]
    for name in ("samples_digest", "samples_digest_expected", "num_samples", "num_tokens", "num_steps"):
        assert getattr(result, name) == getattr(reference, name), name
    assert [evaluation.step for evaluation in result.evaluations] == [6, 12]
    assert [checksum.step for checksum in result.checksums] == [0, 6, 12]
    assert 0 < len(result.step_time_s.samples) <= 4, "neither what another layout timed counts, nor warm-up"
    assert sum(result.phases_s.values()) == pytest.approx(result.step_time_s.median, rel=1e-9)
    assert result.world_size == len(result.ranks) == world_size


def test_a_damaged_checkpoint_is_set_aside_for_an_older_one(
    cut_off: tuple[Path, str], reference: RunResult, tmp_path: Path
) -> None:
    out = shutil.copytree(cut_off[0], tmp_path / "run")
    file = next((out / "checkpoints/step-00000006").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = run(out, resume=True)
    assert result.resumed_after == [3]
    assert_same_work(result, reference)
    assert (out / "checkpoints/damaged-step-00000006").is_dir()
    assert [checkpoint.step for checkpoint in checkpoints_in(out)] == [12, 9]
    assert [damage(checkpoint.path) for checkpoint in checkpoints_in(out)] == [None, None]


def test_a_run_whose_steps_are_all_done_only_measures_what_is_left(
    undisturbed: Path, reference: RunResult, tmp_path: Path
) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "run")
    (out / "result.json").unlink()
    with pytest.raises(RunError, match=r"the last of train\.steps=12 steps: in another layout nothing would be left"):
        run(out, world_size=1, resume=True)
    result = run(out, resume=True)
    assert_same_work(result, reference)
    assert result.resumed_after == [12]
