"""The weights of a training checkpoint, whatever layout wrote it, whole and in one process."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from worldsize.checkpoint_folder import Checkpoint, checkpoints_in
from worldsize.errors import UserError
from worldsize.train.checkpoint import MODEL
from worldsize.train.resume import read_whole, stored_tensors


def newest_checkpoint(run: Path) -> Checkpoint:
    """Return a run's checkpoint of the latest step. Raises UserError when the run kept none."""
    found = checkpoints_in(run)
    if not found:
        raise UserError(
            f"{run} holds no checkpoint, so its weights are gone. Train it again with checkpoint.every_steps=N "
            "(the last step is always saved)."
        )
    return found[0]


def checkpoint_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the model's weights of a checkpoint, by our names. Raises UserError when a file is damaged."""
    stored = stored_tensors(checkpoint.path)
    names = [name for name in stored if name.startswith(f"{MODEL}/")]
    whole = read_whole(names, stored, checkpoint.path)
    return {name.removeprefix(f"{MODEL}/"): tensor for name, tensor in whole.items()}
