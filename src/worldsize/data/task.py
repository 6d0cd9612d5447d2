"""The task of a run: what is prepared for it once, and what samples that becomes. Torch-free.

A task is samples that become batches (`Samples`), a loss over their targets (the same sum for all of them,
train/loss.py), and what an evaluation says (train/evaluation.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from worldsize.config.schema import Config, DataConfig
from worldsize.data.batch import Samples
from worldsize.data.classification import Classification
from worldsize.data.language_modelling import LanguageModelling
from worldsize.data.prepare import OnProgress, prepare
from worldsize.data.row_file import RowFile, Split, prepare_rows
from worldsize.data.token_file import TokenFile
from worldsize.data.translation import Translation
from worldsize.parallel.registry import cuts_model


@dataclass(frozen=True)
class TaskData:
    """Tokenized data of a task, on disk."""

    file: TokenFile | RowFile

    @property
    def vocab_size(self) -> int:
        return self.file.vocab_size

    @property
    def digest(self) -> str:
        return self.file.digest

    @property
    def num_classes(self) -> int | None:
        """Classes of labelled rows; None where there are none."""
        return (len(self.file.labels) or None) if isinstance(self.file, RowFile) else None

    def samples(self, config: Config, split: Split) -> Samples:
        """Return a split's samples for a resolved config. Raises UserError when it holds none."""
        length = config.model.context_length
        if isinstance(self.file, TokenFile):
            return LanguageModelling(self.file, length, split)
        # Compiled models want one width; ranks that share a sample send each other tensors of one shape.
        full_width = config.train.compile or cuts_model(config.parallel.strategy)
        if config.data.task == "classification":
            in_front = config.model.pooling == "cls"
            return Classification(
                self.file,
                length,
                split,
                front=in_front,
                full_width=full_width,
                token_dropout=config.train.token_dropout,
                seed=config.train.seed,
            )
        return Translation(self.file, length, split, packing=config.data.packing, full_width=full_width)


def prepare_task(data: DataConfig, *, on_progress: OnProgress | None = None) -> TaskData:
    """Return the task's tokenized data, made now or found in the cache. Called before any rank starts, and on each."""
    if data.task == "language_modelling":
        return TaskData(prepare(data, on_progress=on_progress))
    return TaskData(prepare_rows(data, on_progress=on_progress))
