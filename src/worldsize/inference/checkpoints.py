"""The weights of a training checkpoint, whatever layout wrote it, in one process."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from worldsize.config.load import from_dict
from worldsize.config.schema import Config
from worldsize.errors import UserError
from worldsize.models.cost import parameter_shapes
from worldsize.run_folder import RUN

CHECKPOINTS = "checkpoints"
METADATA = ".metadata"
"""torch.distributed.checkpoint writes this file last: its presence means that the checkpoint is whole."""


def is_checkpoint(path: Path) -> bool:
    """Return True for the folder of one whole checkpoint."""
    return (path / METADATA).is_file()


def newest_checkpoint(run: Path) -> Path:
    """Return a run's checkpoint of the latest step. Raises UserError when the run kept none."""
    folder = run / CHECKPOINTS
    found = [path for path in folder.iterdir() if is_checkpoint(path)] if folder.is_dir() else []
    if not found:
        raise UserError(f"{run} holds no checkpoint, so its weights are gone. Train it again and keep checkpoints.")
    return max(found, key=_step)


def _step(checkpoint: Path) -> int:
    digits = re.findall(r"\d+", checkpoint.name)
    return int(digits[-1]) if digits else -1


def checkpoint_weights(checkpoint: Path) -> tuple[Config, dict[str, Tensor]]:
    """Return the config of the run that wrote a checkpoint, and the model's weights."""
    from torch.distributed import checkpoint as dcp

    from worldsize.inference.open_model import read_json

    run = checkpoint.parent.parent
    config = from_dict(read_json(run / RUN)["config"], str(run / RUN))
    weights = {name: torch.empty(shape) for name, shape in parameter_shapes(config.model).items()}
    dcp.load({"model": weights}, checkpoint_id=checkpoint, no_dist=True)
    return config, weights
