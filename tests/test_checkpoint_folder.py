"""Checkpoints on disk, without torch: which count as whole, which are kept, what is said of the others."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize import checkpoint_folder
from worldsize.checkpoint_folder import (
    CHECKPOINTS,
    MANIFEST,
    Manifest,
    begin,
    best_of,
    checkpoints_in,
    clear_half_written,
    damage,
    digest_of,
    name_of,
    publish,
    saving_name,
    take_up,
    write_digest,
)
from worldsize.config.schema import Config
from worldsize.errors import UserError

CONFIG = Config().model_dump()


def write(
    run: Path, step: int, loss: float | None = None, *, keep_last: int = 9, keep_best: bool = True, **content: bytes
) -> Path:
    """Publish a checkpoint of two files."""
    saving = run / CHECKPOINTS / saving_name(step)
    saving.mkdir(parents=True)
    for name, data in ({"a": b"weights of rank 0", "b": b"weights of rank 1"} | content).items():
        (saving / name).write_bytes(data)
        write_digest(saving / name)
    manifest = Manifest(
        step=step, config=CONFIG, strategy="ddp", layout={"dp": 2}, world_size=2, evaluation_loss=loss, numbers={}
    )
    return publish(saving, manifest, keep_last=keep_last, keep_best=keep_best).path


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / CHECKPOINTS).iterdir())


def test_a_published_checkpoint_is_whole_and_holds_its_digests(tmp_path: Path) -> None:
    path = write(tmp_path, 40)
    assert names(tmp_path) == ["step-00000040"]
    assert {file.name for file in path.iterdir()} == {"a", "b", MANIFEST}
    (found,) = checkpoints_in(tmp_path)
    assert found.step == 40
    assert found.manifest.files["a"].blake2b == hashlib.blake2b(b"weights of rank 0", digest_size=16).hexdigest()
    assert damage(path) is None


@given(st.binary(max_size=3_000_000))
def test_a_digest_is_that_of_the_whole_file(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.write_bytes(data)
        assert digest_of(file).num_bytes == len(data)
        assert digest_of(file).blake2b == hashlib.blake2b(data, digest_size=16).hexdigest()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: (path / "a").write_bytes(b"weights"), "a has 7 bytes, 17 were written"),
        (lambda path: (path / "a").write_bytes(b"Weights of rank 0"), "a is not what was written"),
        (lambda path: (path / "b").unlink(), "b cannot be read"),
        (lambda path: (path / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text()[:99]), "manifest.json cannot be read"),
        (lambda path: (path / MANIFEST).write_text("{}"), "manifest.json cannot be read"),
        (lambda path: (path / "c.safetensors").write_bytes(b""), "c.safetensors does not belong to it"),
    ],
)
def test_damage_is_noticed_and_the_older_one_taken(harm: Any, words: str, tmp_path: Path) -> None:
    older, newer = write(tmp_path, 10), write(tmp_path, 20)
    harm(newer)
    assert words in str(damage(newer))
    start = take_up(tmp_path, CONFIG)
    assert start.checkpoint == older
    (note,) = start.notes
    assert note.startswith("the checkpoint step-00000020 is damaged: ")
    assert words in note
    assert names(tmp_path) == ["damaged-step-00000020", "step-00000010"]


def test_when_all_are_damaged_nothing_begins_by_itself(tmp_path: Path) -> None:
    (write(tmp_path, 10) / "a").unlink()
    with pytest.raises(UserError, match=r"holds no sound checkpoint: .*step-00000010 is damaged.*remove .*checkpoints"):
        take_up(tmp_path, CONFIG)


def test_half_written_folders_never_count(tmp_path: Path) -> None:
    write(tmp_path, 10)
    half = tmp_path / CHECKPOINTS / saving_name(20)
    half.mkdir()
    (half / "a").write_bytes(b"weigh")
    assert [found.step for found in checkpoints_in(tmp_path)] == [10]
    start = take_up(tmp_path, CONFIG)
    assert start.checkpoint == tmp_path / CHECKPOINTS / name_of(10)
    assert start.notes == []
    assert names(tmp_path) == ["step-00000010"]


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "left"),
    [
        (1, False, [50]),
        (2, False, [40, 50]),
        (1, True, [20, 50]),
        (2, True, [20, 40, 50]),
        (9, True, [10, 20, 30, 40, 50]),
    ],
)
def test_the_last_and_the_best_are_kept(keep_last: int, keep_best: bool, left: list[int], tmp_path: Path) -> None:
    losses = {10: 3.0, 20: 2.0, 30: None, 40: 2.5, 50: None}
    for step, loss in losses.items():
        write(tmp_path, step, loss, keep_last=keep_last, keep_best=keep_best)
    assert names(tmp_path) == [name_of(step) for step in left]


def test_the_best_is_of_equals_the_newest_and_none_without_evaluation(tmp_path: Path) -> None:
    write(tmp_path, 10)
    assert best_of(checkpoints_in(tmp_path)) is None
    for step, loss in ((20, 2.0), (30, 2.0), (40, 2.5)):
        write(tmp_path, step, loss)
    best = best_of(checkpoints_in(tmp_path))
    assert best is not None
    assert best.step == 30


def test_a_save_that_fails_leaves_the_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write(tmp_path, 10)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_folder, "write_record", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 20, keep_last=1)
    monkeypatch.undo()
    clear_half_written(tmp_path)
    assert names(tmp_path) == [good.name]
    assert damage(good) is None


def test_a_removal_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    write(tmp_path, 10).rename(tmp_path / CHECKPOINTS / "dropped-step-00000010")
    write(tmp_path, 20)
    clear_half_written(tmp_path)
    assert names(tmp_path) == ["step-00000020"]


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {name: {**section, **sections.get(name, {})} for name, section in CONFIG.items()}


def test_what_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path, 10)
    other_layout = changed(parallel={"strategy": "fsdp"}, train={"micro_batch": 2}, checkpoint={"every_steps": 7})
    assert take_up(tmp_path, other_layout).checkpoint == path
    other_work = changed(model={"d_model": 64}, optimizer={"learning_rate": 1.0}, train={"global_batch": 64})
    with pytest.raises(UserError) as caught:
        take_up(tmp_path, other_work)
    for words in ("model.d_model: 128 → 64", "optimizer.learning_rate: 0.001 → 1.0", "train.global_batch: 32 → 64"):
        assert words in str(caught.value)


def test_a_run_begins_where_it_is_told_to(tmp_path: Path) -> None:
    start = begin(tmp_path, CONFIG, 2, resume=True)
    assert start is not None
    assert start.checkpoint is None
    assert start.notes == ["there is no checkpoint yet: the run begins at its first step."]
    path = write(tmp_path, 10)
    with pytest.raises(UserError, match=r"a checkpoint after step 10\. Add --resume to go on from there"):
        begin(tmp_path, CONFIG, 2, resume=False)
    start = begin(tmp_path, CONFIG, 2, resume=True)
    assert start is not None
    assert start.checkpoint == path
