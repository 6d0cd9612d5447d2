"""Saves the whole state of a run while it trains, by torch.distributed.checkpoint. Methods are called on every rank.

A save is a copy of the state to host memory, for which training stands still, then files written by a thread beside
training: each rank's tensors as one safetensors file, then, on rank 0, manifest and renaming (checkpoint_folder.py).
The thread talks to the other ranks' threads in a gloo group of its own, never in the one that training uses.
Nothing is pickled: safetensors and JSON hold data alone, so that loading cannot run code.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult

from worldsize.checkpoint_folder import CHECKPOINTS, Manifest, next_command, publish, saving_name, write_digest
from worldsize.config.schema import Config
from worldsize.errors import RunError
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import strategy_name
from worldsize.parallel.strategy import Strategy
from worldsize.records import CheckpointSave

MODEL, RNG, LOG, ROWS = "model", "rng", "log", "rows"
"""First parts of the names under which a checkpoint holds its tensors; `optimizer` and `scaler` are the strategy's."""


class Writer(HuggingFaceStorageWriter):
    """Writes each rank's tensors into one safetensors file with its digest beside it; publishes when all are there."""

    def __init__(self, folder: Path, when_all_is_written: Callable[[], object]) -> None:
        super().__init__(str(folder), save_distributed=True)
        self._folder = folder
        self._when_all_is_written = when_all_is_written

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        written = super().write_data(plan, planner)
        for name in {result.storage_data.relative_path for result in written.value()}:
            write_digest(self._folder / name)
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Called on rank 0 alone, when every rank has written. What it raises is raised on every rank."""
        self._when_all_is_written()


@dataclass
class _Saving:
    """A save that is under way."""

    step: int
    future: Future[Metadata]
    began_s: float
    standstill_s: float = 0.0
    ended_s: float | None = None
    num_steps: int = 0


class Checkpoints:
    """Saves checkpoints of one run into its folder, one at a time."""

    def __init__(
        self, config: Config, context: RankContext, strategy: Strategy, run: Path, tokens_digest: str | None
    ) -> None:
        """Make the folder and the group for saving. Raises RunError on every rank when the folder cannot be made."""
        self._config = config
        self._context = context
        self._strategy = strategy
        self._folder = run / CHECKPOINTS
        self._tokens_digest = tokens_digest
        self._saving: _Saving | None = None
        self.saves: list[CheckpointSave] = []
        self._group = None
        if context.world_size > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=config.device.timeout_s))
        self._make_folder()

    def _make_folder(self) -> None:
        problem = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f".rank{self._context.rank}").touch()
            (self._folder / f".rank{self._context.rank}").unlink()
        except OSError as error:
            problem = f"rank {self._context.rank} cannot write into {self._folder}: {error.strerror}"
        problems = [found for found in self._context.gather(problem) if found]
        if problems:
            raise RunError(f"{problems[0]}. Give another --out, or leave checkpoint.every_steps unset.")

    def is_due(self, done: int) -> bool:
        """Return whether a checkpoint is to be taken when `done` steps are done."""
        every = self._config.checkpoint.every_steps
        return every is not None and (done % every == 0 or done == self._config.train.steps)

    def save(self, step: int, extra: dict[str, Tensor], evaluation_loss: float | None) -> None:
        """Begin a save of the state after `step` steps, once the one before has ended; `extra` are this rank's own.

        Training stands still while this runs: for the copy, or, when not asynchronous, until all is on the disk.
        Raises RunError on every rank when this save, or the one before, could not be written.
        """
        self.wait()
        began_s = time.perf_counter()
        state = self._strategy.state()
        manifest = self._manifest(step, state, evaluation_loss)
        keep = self._config.checkpoint
        saving = self._folder / saving_name(step)
        quiet_on_one_device()
        future = async_save(
            {**tensors_of(state), **rng_state(self._context), **extra},
            storage_writer=Writer(
                saving, lambda: publish(saving, manifest, keep_last=keep.keep_last, keep_best=keep.keep_best)
            ),
            process_group=self._group,
            no_dist=self._group is None,
        )
        assert isinstance(future, Future)
        self._saving = under_way = _Saving(step, future, began_s)
        future.add_done_callback(lambda _: setattr(under_way, "ended_s", time.perf_counter()))
        if not keep.asynchronous:
            wait([future])
        under_way.standstill_s = time.perf_counter() - began_s
        if not keep.asynchronous:
            self.wait()

    def _manifest(self, step: int, state: dict[str, Any], evaluation_loss: float | None) -> Manifest:
        return Manifest(
            step=step,
            config=self._config.model_dump(),
            tokens_digest=self._tokens_digest,
            strategy=strategy_name(self._config.parallel, self._context.world_size),
            layout=self._context.layout.as_dict(),
            world_size=self._context.world_size,
            evaluation_loss=evaluation_loss,
            numbers=numbers_of(state),
        )

    def num_beside(self, began_s: Sequence[float]) -> int:
        """Return how many of the last steps, given by when they began, ran beside a save on any rank.

        Waits for nothing, but is a collective while a save is under way.
        """
        if self._saving is None:
            return 0
        ended_s = self._saving.ended_s
        mine = len(began_s) if ended_s is None else sum(begin < ended_s for begin in began_s)
        num_steps: int = max(self._context.gather(mine))
        self._saving.num_steps += num_steps
        if all(self._context.gather(ended_s is not None)):
            self.wait()
        return num_steps

    def wait(self) -> None:
        """Wait until the save under way lies on the disk. Raises RunError on every rank when that did not succeed."""
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        try:
            saving.future.result()
        except (Exception, CheckpointException) as error:  # the latter is no Exception
            raise RunError(self._what_failed(saving.step, error)) from error
        whole_after_s = (saving.ended_s or time.perf_counter()) - saving.began_s
        self.saves.append(
            CheckpointSave(
                step=saving.step,
                standstill_s=saving.standstill_s,
                whole_after_s=whole_after_s,
                num_steps=saving.num_steps,
            )
        )

    def _what_failed(self, step: int, error: BaseException) -> str:
        """Return the error in words, and what is left to go on from; on rank 0 the half-written folder goes."""
        rank, cause = self._context.rank, error
        if isinstance(error, CheckpointException) and error.failures:
            rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
        if self._context.is_main:
            shutil.rmtree(self._folder / saving_name(step), ignore_errors=True)
        why = (cause.strerror if isinstance(cause, OSError) else None) or f"{type(cause).__name__}: {cause}"
        return (
            f"rank {rank} could not write the checkpoint after step {step} into {self._folder}: {why}. Make room, or "
            f"give leave to write. {next_command(self._folder.parent)}"
        )


def tensors_of(state: dict[str, Any], path: str = "") -> dict[str, Tensor]:
    """Return a state's tensors under the names of the mappings that they stand in, joined by '/'."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            tensors |= tensors_of(value, f"{path}{name}/")
        elif isinstance(value, Tensor):
            tensors[path + name] = value
    return tensors


def numbers_of(state: dict[str, Any], path: str = "") -> dict[str, int | float]:
    """Return a state's plain numbers by name. Lists are left out: the optimizer's settings follow from the config."""
    numbers: dict[str, int | float] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            numbers |= numbers_of(value, f"{path}{name}/")
        elif isinstance(value, int | float):
            numbers[path + name] = value
    return numbers


def rng_state(context: RankContext) -> dict[str, Tensor]:
    """Return this rank's random-number states, which dropout draws from, under the rank's own names."""
    states = {f"{RNG}/cpu/{context.rank}": torch.get_rng_state()}
    if context.device.type == "cuda":
        states[f"{RNG}/cuda/{context.rank}"] = torch.cuda.get_rng_state(context.device)
    return states


def as_tensor(text: bytes) -> Tensor:
    """Return bytes as a vector of uint8."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)


def as_bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def as_json(value: Any) -> Tensor:
    return as_tensor(json.dumps(value).encode())


def quiet_on_one_device() -> None:
    """torch warns on each save and load without a process group that it takes one process to be meant. It is."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
