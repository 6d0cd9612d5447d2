"""Checkpoints on disk: which are whole, which is taken up, which are kept. Torch-free.

A run's `checkpoints/` holds one folder a checkpoint, `step-00000040`: safetensors files, one a rank, and
`manifest.json` with their sizes and digests. It is written under another name and renamed whole once every rank's file
and the manifest are on the disk, so that a folder of this name is never half-written. What fails its digests later is
set aside under `damaged-…`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from worldsize.errors import UserError
from worldsize.records import Record
from worldsize.run_folder import claim, flatten, is_finished, write_record

CHECKPOINTS, MANIFEST = "checkpoints", "manifest.json"
WHOLE, SAVING, DROPPED, DAMAGED = "step-", "saving-", "dropped-", "damaged-"
"""What a folder's name begins with: whole; being written; being removed; found unfit to load."""
DIGEST_SUFFIX = ".digest"
MAY_DIFFER = (
    "parallel.", "device.", "measure.", "track.", "checkpoint.", "data.cache_dir", "data.num_workers",
    "train.micro_batch", "train.compile", "train.activation_checkpointing", "train.eval_every_steps",
    "train.eval_samples", "train.checksum_every_steps",
)  # fmt: skip
"""Keys that a run may change when it goes on: none of them changes what is trained."""


class FileDigest(Record):
    """One file of a checkpoint."""

    num_bytes: int
    blake2b: str = Field(description="BLAKE2b of its content, 16 bytes, hexadecimal")


class Manifest(Record):
    """manifest.json of a checkpoint: what it holds beside its tensors, and the digests of its files."""

    schema_version: int = 1
    step: int = Field(description="steps done: training goes on with the step of this number")
    config: dict[str, Any] = Field(description="the resolved config tree of the run that wrote it")
    tokens_digest: str | None = Field(None, description="of the tokenized corpus")
    strategy: str
    layout: dict[str, int]
    world_size: int
    evaluation_loss: float | None = Field(None, description="of an evaluation after this very step; None without one")
    numbers: dict[str, int | float] = Field(description="what is no tensor: the state of fp16's loss scaler")
    files: dict[str, FileDigest] = Field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint's folder and manifest."""

    path: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        return self.manifest.step


def name_of(step: int) -> str:
    return f"{WHOLE}{step:08d}"


def saving_name(step: int) -> str:
    return f"{SAVING}{name_of(step)}"


def digest_of(path: Path) -> FileDigest:
    """Return a file's size and digest. Reads it whole, a mebibyte at a time."""
    digest, num_bytes = hashlib.blake2b(digest_size=16), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            num_bytes += len(piece)
    return FileDigest(num_bytes=num_bytes, blake2b=digest.hexdigest())


def write_digest(path: Path) -> None:
    """Leave a file's digest beside it, for whoever writes the manifest."""
    write_record(path.with_name(path.name + DIGEST_SUFFIX), digest_of(path))


def publish(saving: Path, manifest: Manifest, *, keep_last: int, keep_best: bool) -> Checkpoint:
    """Make a checkpoint whose files are all written whole: add its manifest, rename it, drop what need not be kept.

    Called by one rank, after all have written their files and digests. Raises OSError; then nothing has changed.
    """
    for beside in sorted(saving.glob(f"*{DIGEST_SUFFIX}")):
        name = beside.name.removesuffix(DIGEST_SUFFIX)
        manifest.files[name] = FileDigest.model_validate_json(beside.read_text(encoding="utf-8"))
        beside.unlink()
    write_record(saving / MANIFEST, manifest)
    _flush_folder(saving)
    path = saving.with_name(name_of(manifest.step))
    saving.rename(path)
    _flush_folder(path.parent)
    drop_old(path.parent, keep_last=keep_last, keep_best=keep_best)
    return Checkpoint(path, manifest)


def _flush_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_old(folder: Path, *, keep_last: int, keep_best: bool) -> None:
    """Remove checkpoints but the last few and, with `keep_best`, the one of the lowest evaluation loss."""
    found = [checkpoint for checkpoint in map(_read, _named(folder)) if isinstance(checkpoint, Checkpoint)]
    kept = {checkpoint.path for checkpoint in found[:keep_last]}
    best = best_of(found)
    if keep_best and best:
        kept.add(best.path)
    for checkpoint in found:
        if checkpoint.path not in kept:
            dropped = checkpoint.path.with_name(DROPPED + checkpoint.path.name)
            checkpoint.path.rename(dropped)  # so that a folder half removed does not pass for a whole one
            shutil.rmtree(dropped)


def best_of(found: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return the checkpoint of the lowest evaluation loss, of equals the newest; None where none was evaluated."""
    evaluated = [(c.manifest.evaluation_loss, -c.step, c) for c in found if c.manifest.evaluation_loss is not None]
    return min(evaluated, key=lambda one: one[:2])[2] if evaluated else None


def clear_half_written(run: Path) -> None:
    """Remove what a save that was cut off, or a removal, left."""
    for begins in (SAVING, DROPPED):
        for left in (run / CHECKPOINTS).glob(f"{begins}*"):
            shutil.rmtree(left)


def checkpoints_in(run: Path) -> list[Checkpoint]:
    """Return the checkpoints of a run's folder whose manifest can be read, newest first. Digests are not checked."""
    return [found for found in map(_read, _named(run / CHECKPOINTS)) if isinstance(found, Checkpoint)]


def _named(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{WHOLE}*"), reverse=True)


def _read(path: Path) -> Checkpoint | str:
    """Return a checkpoint, or in words why its manifest cannot be read."""
    try:
        return Checkpoint(path, Manifest.model_validate_json((path / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        return f"{MANIFEST} cannot be read ({str(error).splitlines()[0]})"


def damage(path: Path) -> str | None:
    """Return in words what is wrong with a checkpoint's folder, or None: every file is there and has its digest."""
    found = _read(path)
    if isinstance(found, str):
        return found
    for name, written in found.manifest.files.items():
        try:
            now = digest_of(path / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if now.num_bytes != written.num_bytes:
            return f"{name} has {now.num_bytes} bytes, {written.num_bytes} were written"
        if now != written:
            return f"{name} is not what was written (its digest differs)"
    more = {file.name for file in path.iterdir()} - {*found.manifest.files, MANIFEST}
    return f"{', '.join(sorted(more))} does not belong to it" if more else None


@dataclass(frozen=True)
class Start:
    """Where a run begins."""

    checkpoint: Path | None
    """The checkpoint that it goes on from; None: its first step."""
    notes: list[str]
    """What people should know of it."""


def begin(run: Path, config: Mapping[str, Any], world_size: int, *, resume: bool) -> Start | None:
    """Make a locked run folder ready and say where the run starts; None when it already holds this run, finished.

    Raises UserError when the folder holds a finished run of another config, checkpoints of another run or damaged ones
    alone, or, without `resume`, an unfinished run's checkpoints.
    """
    start = Start(None, [])
    if not is_finished(run):
        if resume:
            start = take_up(run, config)
        else:
            refuse_to_begin_again(run)
    return start if claim(run, config, world_size) else None


def take_up(run: Path, config: Mapping[str, Any]) -> Start:
    """Return the newest sound checkpoint of an unfinished run as where it starts.

    Damaged ones are set aside. Raises UserError when all are damaged, or when the config trains something else.
    """
    clear_half_written(run)
    notes: list[str] = []
    for path in _named(run / CHECKPOINTS):
        trouble = damage(path)
        if trouble is None:
            found = _read(path)
            assert isinstance(found, Checkpoint)
            refuse_other_work(found, config)
            return Start(path, notes)
        aside = path.with_name(DAMAGED + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        notes.append(f"the checkpoint {path.name} is damaged: {trouble}. It was set aside as {aside.name}.")
    if notes:
        raise UserError(
            f"{run} holds no sound checkpoint: {' '.join(notes)} To begin again from the first step, remove "
            f"{run / CHECKPOINTS} or give another --out."
        )
    return Start(None, ["there is no checkpoint yet: the run begins at its first step."])


def refuse_other_work(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Raise UserError when `config` would train something else than the run that wrote the checkpoint."""
    theirs, ours = flatten(checkpoint.manifest.config), flatten(config)
    keys = [key for key in {**theirs, **ours} if not key.startswith(MAY_DIFFER)]
    differing = [f"{k}: {theirs.get(k)!r} → {ours.get(k)!r}" for k in keys if theirs.get(k) != ours.get(k)]
    if differing:
        raise UserError(
            f"{checkpoint.path} is a checkpoint of another run ({'; '.join(differing)}). Give the config that it had "
            "(world size, layout and measuring may change), or another --out."
        )


def refuse_to_begin_again(run: Path) -> None:
    """Raise UserError when an unfinished run's folder holds checkpoints: beginning again would waste them."""
    paths = _named(run / CHECKPOINTS)
    if paths:
        raise UserError(
            f"{run} holds an unfinished run with a checkpoint after step {int(paths[0].name.removeprefix(WHOLE))}. Add "
            f"--resume to go on from there; to begin again, remove {run / CHECKPOINTS} or give another --out."
        )
    clear_half_written(run)


def next_command(run: Path) -> str:
    """Return in words how to go on with a run that was cut off."""
    found = checkpoints_in(run)
    if not found:
        return "Run the same command again to start over."
    return f"Run the same command with --resume to go on from the checkpoint after step {found[0].step}."


def read(path: Path) -> Checkpoint:
    """Return a checkpoint. Raises UserError when the folder is none, or its manifest cannot be read."""
    found = _read(path)
    if isinstance(found, str):
        raise UserError(
            f"{path} is no checkpoint: {found}. A checkpoint is a folder such as {CHECKPOINTS}/{name_of(40)}."
        )
    return found
