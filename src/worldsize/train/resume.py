"""Takes a checkpoint up again, in the layout that wrote it or in another. Every function is called on every rank.

Each rank reads its own part of each tensor, whatever part each file holds. What a rank's random numbers and step rows
are depends on the layout: in the same one each rank gets its own back; in another, random numbers come back where the
samples are shared out in the same way, else they are seeded anew, and the steps so far become rank 0's, untimed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from worldsize.checkpoint_folder import Checkpoint, Manifest
from worldsize.errors import UserError
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import Layout
from worldsize.parallel.strategy import Strategy
from worldsize.records import PHASES, StepRow
from worldsize.train.checkpoint import (
    LOG,
    RNG,
    ROWS,
    as_bytes,
    numbers_of,
    quiet_on_one_device,
    tensors_of,
)
from worldsize.train.log import TrainLog

Stored = Mapping[str, TensorStorageMetadata]


def stored_tensors(path: Path) -> Stored:
    """Return name → size and dtype of every tensor of a checkpoint. Raises UserError when a file is no safetensors."""
    try:
        found = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}. Take an older checkpoint, or begin again.") from error
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, TensorStorageMetadata)}


def read_into(tensors: dict[str, Tensor], path: Path) -> None:
    """Fill tensors, or this rank's shards of them, from a checkpoint's tensors of the same names and shapes."""
    quiet_on_one_device()
    load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)


def read_whole(names: Sequence[str], stored: Stored, path: Path) -> dict[str, Tensor]:
    """Return tensors of a checkpoint, whole, in host memory."""
    tensors = {name: torch.empty(stored[name].size, dtype=stored[name].properties.dtype) for name in names}
    if tensors:
        read_into(tensors, path)
    return tensors


def load_state(checkpoint: Checkpoint, strategy: Strategy, context: RankContext) -> None:
    """Put a checkpoint's weights, optimizer state and scaler into a prepared strategy.

    Raises UserError on every rank when the names or shapes of the model and its optimizer are not those of the
    checkpoint: it is of another model, or of another optimizer.
    """
    state = strategy.state()
    tensors = tensors_of(state)
    numbers = numbers_of(state)
    stored = stored_tensors(checkpoint.path)
    _refuse_another_model(tensors, numbers, stored, checkpoint, context)
    read_into(tensors, checkpoint.path)
    strategy.load_state(_with_numbers(state, checkpoint.manifest.numbers))


def _with_numbers(state: dict[str, object], numbers: Mapping[str, int | float], path: str = "") -> dict[str, object]:
    """Return a state with its plain numbers replaced by those of the same names."""
    return {
        name: _with_numbers(value, numbers, f"{path}{name}/")
        if isinstance(value, dict)
        else numbers.get(path + name, value)
        for name, value in state.items()
    }


def _refuse_another_model(
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, int | float],
    stored: Stored,
    checkpoint: Checkpoint,
    context: RankContext,
) -> None:
    """Compare what all ranks together hold with what is stored, by name and shape."""
    ours: dict[str, tuple[int, ...]] = {}
    for held in context.gather({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        ours |= held
    theirs = {
        name: tuple(t.size) for name, t in stored.items() if not name.startswith((f"{RNG}/", f"{LOG}/", f"{ROWS}/"))
    }
    missing = [*(ours.keys() - theirs.keys()), *(numbers.keys() - checkpoint.manifest.numbers.keys())]
    unexpected = theirs.keys() - ours.keys()
    unlike = [name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
    problems = [f"it lacks {_some(missing)}"] if missing else []
    problems += [f"it also has {_some(list(unexpected))}"] if unexpected else []
    problems += [f"{_some([f'{n} is {theirs[n]}, here {ours[n]}' for n in unlike])}"] if unlike else []
    if problems:
        raise UserError(
            f"{checkpoint.path} is not a checkpoint of this model and optimizer: {'; '.join(problems)}. Give the "
            "config that it was made with, or another --out."
        )


def _some(names: Sequence[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def same_layout(manifest: Manifest, context: RankContext, strategy: Strategy) -> bool:
    return manifest.layout == context.layout.as_dict() and manifest.strategy == strategy.name


def load_rng(checkpoint: Checkpoint, context: RankContext, seed: int) -> None:
    """Give this rank the random-number state that it had, or seed it anew where samples are shared out differently."""
    manifest = checkpoint.manifest
    shared_alike = (
        manifest.world_size == context.world_size
        and Layout(**manifest.layout).num_data_ranks == context.layout.num_data_ranks
    )
    stored = stored_tensors(checkpoint.path)
    names = [name for kind in ("cpu", "cuda") if (name := f"{RNG}/{kind}/{context.rank}") in stored]
    if not shared_alike or (context.device.type == "cuda" and len(names) < 2):
        fresh = np.random.SeedSequence([seed, context.data_rank, manifest.step]).generate_state(1)[0]
        torch.manual_seed(int(fresh))
        return
    states = read_whole(names, stored, checkpoint.path)
    torch.set_rng_state(states[f"{RNG}/cpu/{context.rank}"])
    if context.device.type == "cuda":
        torch.cuda.set_rng_state(states[f"{RNG}/cuda/{context.rank}"], context.device)


def load_log(checkpoint: Checkpoint, context: RankContext, *, same_layout: bool) -> TrainLog:
    """Return this rank's log as it was after the checkpoint's step, with the step added to `resumed_after`.

    In another layout rank 0 takes over all ranks' counts, and the others begin with rows that count nothing.
    """
    stored = stored_tensors(checkpoint.path)
    ranks = [context.rank] if same_layout else list(range(checkpoint.manifest.world_size))
    names = [f"{part}/{rank}" for part in (LOG, ROWS) for rank in ranks]
    texts = {name: as_bytes(tensor) for name, tensor in read_whole(names, stored, checkpoint.path).items()}
    logs = [
        TrainLog.from_json(
            json.loads(texts[f"{LOG}/{rank}"]),
            [StepRow.model_validate_json(line) for line in texts[f"{ROWS}/{rank}"].splitlines()],
        )
        for rank in ranks
    ]
    log = logs[0] if same_layout else merged(logs, counts=context.is_main)
    log.resumed_after.append(checkpoint.step)
    return log


def merged(logs: Sequence[TrainLog], *, counts: bool) -> TrainLog:
    """Return the logs of all ranks of another layout as one, or with `counts` false as one that counts nothing.

    Its rows keep the slowest rank's time but are out of every timing: another layout took it.
    """
    log = logs[0]
    log.rows = [_merged_row(rows, counts=counts) for rows in zip(*(one.rows for one in logs), strict=True)]
    log.contention_s = [0.0] * len(log.rows)
    log.samples_digest = sum(one.samples_digest for one in logs) if counts else 0
    return log


def _merged_row(rows: Sequence[StepRow], *, counts: bool) -> StepRow:
    slowest = max(rows, key=lambda row: row.wall_s)
    share = int(counts)
    return slowest.model_copy(
        update={
            "warmup": True,
            "wall_s": slowest.wall_s * share,
            "phases_s": {phase: slowest.phases_s.get(phase, 0.0) * share for phase in PHASES},
            "num_samples": sum(row.num_samples for row in rows) * share,
            "num_tokens": sum(row.num_tokens for row in rows) * share,
            "num_targets": sum(row.targets for row in rows) * share,
            "loss_sum": sum(row.loss_sum for row in rows) * share,
            "grad_norm": rows[0].grad_norm,
            "local_grad_norm": None,
            "memory_bytes": None,
        }
    )
