"""A checkpoint's weights in forms that other programs open. One process reads them whole into host memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from worldsize.checkpoint_folder import Checkpoint
from worldsize.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def full_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return every weight of a checkpoint's model, whole, under the model's own names, whatever layout wrote it.

    Raises UserError when the checkpoint cannot be read.
    """
    from worldsize.train.checkpoint import MODEL
    from worldsize.train.resume import read_whole, stored_tensors

    stored = stored_tensors(checkpoint.path)
    names = sorted(name for name in stored if name.startswith(f"{MODEL}/"))
    weights = read_whole(names, stored, checkpoint.path)
    return {name.removeprefix(f"{MODEL}/"): tensor for name, tensor in weights.items()}


def write_safetensors(checkpoint: Checkpoint, out: Path) -> int:
    """Write a checkpoint's weights as one safetensors file, whole or not at all; return its bytes.

    The file's header holds, as strings, `format`, `step` and `config`, the run's config as JSON. Raises UserError when
    the checkpoint cannot be read or the file not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    manifest = checkpoint.manifest
    header = {"format": "pt", "step": str(manifest.step), "config": json.dumps(manifest.config)}
    weights = full_weights(checkpoint)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, temporary, metadata=header)
        temporary.replace(out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out} cannot be written: {error}. Give another --out.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return out.stat().st_size
