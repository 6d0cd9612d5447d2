"""The weights of a training checkpoint, whatever layout wrote it, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from worldsize.config.load import from_dict
from worldsize.config.schema import Config
from worldsize.errors import UserError
from worldsize.models.cost import parameter_shapes

CHECKPOINTS, MANIFEST = "checkpoints", "manifest.json"
MODEL = "model/"
"""What the names of the weights begin with among a checkpoint's tensors."""


def is_checkpoint(path: Path) -> bool:
    """Return True for the folder of one whole checkpoint."""
    return (path / MANIFEST).is_file()


def newest_checkpoint(run: Path) -> Path:
    """Return a run's checkpoint of the latest step. Raises UserError when the run kept none."""
    found = [path for path in sorted((run / CHECKPOINTS).glob("step-*")) if is_checkpoint(path)]
    if not found:
        raise UserError(
            f"{run} holds no checkpoint, so its weights are gone. Train it again with checkpoint.every_steps set."
        )
    return found[-1]


def checkpoint_weights(checkpoint: Path) -> tuple[Config, dict[str, Tensor]]:
    """Return the config of the run that wrote a checkpoint, and the model's weights."""
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    config = from_dict(json.loads((checkpoint / MANIFEST).read_text("utf-8"))["config"], str(checkpoint / MANIFEST))
    reader = HuggingFaceStorageReader(str(checkpoint))
    weights = {MODEL + name: torch.empty(shape) for name, shape in parameter_shapes(config.model).items()}
    dcp.load(weights, storage_reader=reader, no_dist=True)  # type: ignore[arg-type]
    return config, {name.removeprefix(MODEL): tensor for name, tensor in weights.items()}
