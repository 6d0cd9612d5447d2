"""A run's checkpoints as models: which one is meant, and its weights, whole, whatever layout wrote them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from worldsize.checkpoint_folder import CHECKPOINTS, Checkpoint, best_of, checkpoints_in, damage
from worldsize.errors import UserError, unknown
from worldsize.train.checkpoint import MODEL
from worldsize.train.resume import read_whole, stored_tensors

WHICH = ("newest", "best")


def checkpoint_of(run: Path, which: str) -> Checkpoint:
    """Return a run's newest checkpoint, or the best: that of the lowest loss on held-out text.

    Raises UserError when the run kept none, or none was evaluated.
    """
    if which not in WHICH:
        raise unknown("--which", which, WHICH)
    found = checkpoints_in(run)
    if not found:
        raise UserError(
            f"{run} holds no checkpoint, so its weights are gone (nothing whole in {CHECKPOINTS}/). Train it "
            "again with checkpoint.every_steps=100, say; the last step is always saved."
        )
    best = best_of(found) if which == "best" else found[0]
    if best is None:
        raise UserError(f"no checkpoint of {run} was evaluated, so none is the best. Use --which newest.")
    return best


def full_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return every weight of a checkpoint's model, whole, by our names, in host memory.

    Raises UserError when a file is not what was written.
    """
    trouble = damage(checkpoint.path)
    if trouble:
        raise UserError(f"{checkpoint.path} is damaged: {trouble}. Give another checkpoint's folder.")
    stored = stored_tensors(checkpoint.path)
    names = [name for name in stored if name.startswith(f"{MODEL}/")]
    weights = read_whole(names, stored, checkpoint.path)
    return {name.removeprefix(f"{MODEL}/"): tensor for name, tensor in weights.items()}
