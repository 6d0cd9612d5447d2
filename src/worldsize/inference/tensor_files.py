"""A folder's tensors in safetensors files: one, or several with an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from worldsize.errors import UserError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
"""A folder of more than this is written as several files, as the hub asks for."""


def library() -> Any:
    """Return safetensors.torch. Raises UserError where it is not installed."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError("safetensors files need the extra 'hf': pip install 'worldsize[hf]'.") from error
    return safetensors.torch


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder, in the dtype in which it is stored, on the CPU.

    Raises UserError when there is none, a file that the index names is missing or damaged, a file does not hold what
    the index says, or a tensor lies in two files.
    """
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    if (folder / WHOLE).is_file():
        return _load(folder / WHOLE)
    pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt"))
    hint = f" It holds {pickled[0]}: convert that with transformers' save_pretrained." if pickled else ""
    raise UserError(f"{folder} holds no weights: neither {WHOLE} nor {INDEX}.{hint}")


def _read_shards(folder: Path) -> dict[str, Tensor]:
    try:
        placed: dict[str, str] = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / INDEX} is no index of safetensors files ({error}). Fetch it again.") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(placed.values())):
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise UserError(f"{folder / INDEX} names {name}, which is not in the folder. Fetch it again.")
        shard = _load(path)
        expected = {tensor for tensor, file in placed.items() if file == name}
        wrong = sorted(expected ^ shard.keys())
        if wrong:
            what = "lacks" if wrong[0] in expected else "also holds"
            raise UserError(f"{path} {what} {', '.join(wrong)}, against what {INDEX} says. Fetch it again.")
        tensors |= shard
    return tensors


def _load(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = library().load_file(path)
    except UserError:
        raise
    except Exception as error:  # the library raises its own kind for damage
        raise UserError(f"{path} is damaged or no safetensors file ({error}). Fetch it again.") from error
    return tensors


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors that share no memory into the folder: one file, or shards of at most `shard_bytes` and an index."""
    shards: list[dict[str, Tensor]] = [{}]
    size_bytes = 0
    for name, tensor in tensors.items():
        if shards[-1] and size_bytes + tensor.nbytes > shard_bytes:
            shards.append({})
            size_bytes = 0
        shards[-1][name] = tensor
        size_bytes += tensor.nbytes
    metadata = {"format": "pt"}
    if len(shards) == 1:
        library().save_file(shards[0], folder / WHOLE, metadata)
        return
    placed: dict[str, str] = {}
    for index, shard in enumerate(shards, start=1):
        file = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        library().save_file(shard, folder / file, metadata)
        placed |= dict.fromkeys(shard, file)
    total_bytes = sum(tensor.nbytes for tensor in tensors.values())
    index_text = json.dumps({"metadata": {"total_size": total_bytes}, "weight_map": placed}, indent=1)
    (folder / INDEX).write_text(index_text + "\n", "utf-8")
