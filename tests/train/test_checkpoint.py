"""Saving and loading on one device: what a file may hold, what is refused, and what a failed save leaves."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.conformance.resumed import HALF, go_on, prepared, train_with_checkpoint
from tests.conformance.steps import config_of
from worldsize.checkpoint_folder import MANIFEST, Manifest, checkpoints_in, damage, digest_of
from worldsize.config.schema import Config
from worldsize.errors import RunError, UserError
from worldsize.run_folder import write_record
from worldsize.train.checkpoint import Checkpoints, Writer
from worldsize.train.resume import load_state


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run's folder with a checkpoint after step HALF, and what training left after all steps."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train_with_checkpoint(0, 1, config_of(), folder)


def test_a_checkpoint_is_a_copy_of_the_moment(saved: tuple[Path, dict[str, Any]]) -> None:
    """Training went on while it was written; what was written is step HALF, not what came after."""
    folder, after = saved
    (checkpoint,) = checkpoints_in(folder)
    tensors = load_file(next(checkpoint.path.glob("*.safetensors")))
    strategy, feed, _ = prepared(0, 1, config_of())
    from worldsize.measure.clock import NullClock

    for step in range(HALF):
        strategy.step(feed.share(step).micro_batches, config_of().optimizer.learning_rate, NullClock())
    for name, weight in strategy.full_parameters():
        assert torch.equal(tensors[f"model/{name}"], weight)
        assert not torch.equal(tensors[f"model/{name}"], after["after"][name])
    assert float(tensors["optimizer/state/token_embedding.weight/step"]) == HALF


def test_every_file_is_data_alone(saved: tuple[Path, dict[str, Any]]) -> None:
    (checkpoint,) = checkpoints_in(saved[0])
    files = sorted(path.name for path in checkpoint.path.iterdir())
    assert files == [MANIFEST, "shard-00001-model-00001-of-00001.safetensors"]
    json.loads((checkpoint.path / MANIFEST).read_text())
    with safe_open(checkpoint.path / files[1], framework="pt") as file:
        assert file.keys()


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("in_place_of", ["a tensor file", "torch's own metadata"])
def test_a_pickle_is_never_opened(in_place_of: str, saved: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Not even one whose digest the manifest vouches for."""
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    pickle.loads(pickle.dumps(Bomb(tmp_path / "this one does")))
    assert (tmp_path / "this one does").exists()
    path = copy_of(saved[0], tmp_path)
    name = next(path.glob("*.safetensors")).name if in_place_of == "a tensor file" else ".metadata"
    (path / name).write_bytes(bomb)
    manifest = Manifest.model_validate_json((path / MANIFEST).read_text())
    manifest.files[name] = digest_of(path / name)
    write_record(path / MANIFEST, manifest)
    assert damage(path) is None
    if in_place_of == "a tensor file":
        with pytest.raises(UserError, match="cannot be read"):
            go_on(0, 1, config_of(), tmp_path / "run")
    else:
        go_on(0, 1, config_of(), tmp_path / "run")
    assert not (tmp_path / "exploded").exists()


def copy_of(run: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(run, tmp_path / "run")
    (checkpoint,) = checkpoints_in(tmp_path / "run")
    return checkpoint.path


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"num_layers": 1}, r"it also has .*blocks\.1\..* and \d+ more"),
        ({"num_layers": 3}, r"it lacks model/blocks\.2\..* and \d+ more|it lacks .*blocks\.2\."),
        ({"d_ff": 64}, r"model/blocks\.0\.feed_forward\.down\.weight is \(32, 128\), here \(32, 64\)"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    model: dict[str, Any], words: str, saved: tuple[Path, dict[str, Any]]
) -> None:
    strategy, _, context = prepared(0, 1, config_of(model=model))
    before = {name: weight.clone() for name, weight in strategy.full_parameters()}
    (checkpoint,) = checkpoints_in(saved[0])
    with pytest.raises(UserError, match=f"is not a checkpoint of this model and optimizer: .*({words})"):
        load_state(checkpoint, strategy, context)
    assert all(torch.equal(before[name], weight) for name, weight in strategy.full_parameters())


def test_a_scaler_that_the_checkpoint_lacks_is_named(saved: tuple[Path, dict[str, Any]]) -> None:
    strategy, _, context = prepared(0, 1, config_of(train={"precision": "fp16"}))
    (checkpoint,) = checkpoints_in(saved[0])
    with pytest.raises(UserError, match="it lacks scaler/_growth_tracker, scaler/backoff_factor"):
        load_state(checkpoint, strategy, context)


def full_after(monkeypatch: pytest.MonkeyPatch, num_saves: int) -> None:
    """Let the disk be full once `num_saves` saves have been written."""
    write, written = Writer.write_data, [0]

    def write_data(self: Writer, plan: Any, planner: Any) -> Any:
        written[0] += 1
        if written[0] > num_saves:
            (self._folder / "half").write_bytes(b"hal")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "half")
        return write(self, plan, planner)

    monkeypatch.setattr(Writer, "write_data", write_data)


def save_and_wait(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, {}, None)
    checkpoints.wait()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_ends_the_run_and_leaves_the_good_checkpoint(
    asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(checkpoint={"every_steps": 1, "asynchronous": asynchronous})
    strategy, _, context = prepared(0, 1, config)
    checkpoints = Checkpoints(config, context, strategy, tmp_path, None)
    full_after(monkeypatch, 1)
    checkpoints.save(1, {}, None)
    with pytest.raises(RunError) as caught:
        save_and_wait(checkpoints, 2)
    for words in (
        f"rank 0 could not write the checkpoint after step 2 into {tmp_path / 'checkpoints'}: No space left on device.",
        "Run the same command with --resume to go on from the checkpoint after step 1.",
    ):
        assert words in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert damage(tmp_path / "checkpoints/step-00000001") is None


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path: Path) -> None:
    config = config_of(checkpoint={"every_steps": 1})
    strategy, _, context = prepared(0, 1, config)
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(RunError, match=r"rank 0 cannot write into .*checkpoints: .*Give another --out"):
        Checkpoints(config, context, strategy, tmp_path, None)


def test_what_is_due(tmp_path: Path) -> None:
    def due(config: Config) -> list[int]:
        strategy, _, context = prepared(0, 1, config)
        checkpoints = Checkpoints(config, context, strategy, tmp_path, None)
        return [done for done in range(1, 11) if checkpoints.is_due(done)]

    assert due(config_of(checkpoint={"every_steps": 4})) == [4, 8, 10]
    assert due(config_of()) == []
