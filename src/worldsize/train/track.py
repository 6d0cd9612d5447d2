"""Optional sinks beside the run's own files: TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsize.config.schema import Config
from worldsize.errors import UserError
from worldsize.records import StepRow


class Sinks:
    """Hands every step's loss, speed and learning rate to the sinks that the config names. Rank 0 only."""

    def __init__(self, config: Config, folder: Path, *, enabled: bool) -> None:
        self._writer: Any = None
        self._wandb: Any = None
        if enabled and config.track.tensorboard:
            self._writer = _tensorboard(folder)
        if enabled and config.track.wandb_project is not None:
            self._wandb = _wandb(config, folder)

    def __enter__(self) -> Sinks:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()

    def log(self, rows: Sequence[StepRow], losses: Sequence[float]) -> None:
        """Log a window of steps; `losses` are over all ranks."""
        for row, loss in zip(rows, losses, strict=True):
            values = {"loss": loss, "step_time_s": row.wall_s, "learning_rate": row.learning_rate}
            if row.grad_norm is not None:
                values["grad_norm"] = row.grad_norm
            if self._writer is not None:
                for name, value in values.items():
                    self._writer.add_scalar(name, value, row.step)
            if self._wandb is not None:
                self._wandb.log(values, step=row.step)


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("track.tensorboard=true needs the extra `track`: pip install 'worldsize[track]'") from error
    return SummaryWriter(str(folder / "tensorboard"))


def _wandb(config: Config, folder: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("track.wandb_project needs the extra `track`: pip install 'worldsize[track]'") from error
    return wandb.init(project=config.track.wandb_project, dir=str(folder), config=config.model_dump())
