"""Held-out data that models are judged by: windows of text, labelled texts, or pairs of a text and its translation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from worldsize.data.batch import IGNORED_TARGET
from worldsize.data.classification import Classification
from worldsize.data.row_file import prepare_held_out, prepare_rows
from worldsize.data.translation import Translation
from worldsize.errors import UserError
from worldsize.inference.evaluate import Text, held_out_text, text_of
from worldsize.inference.open_model import OpenedModel
from worldsize.inference.scores import translation_signatures
from worldsize.inference.tensor_files import library

Figure = Literal["perplexity", "accuracy", "BLEU"]


@dataclass(frozen=True)
class HeldOut:
    """What is predicted, as tensors that another process can read.

    N windows of T tokens. Of text and of pairs `targets` are the next tokens (N, T), IGNORED_TARGET where none is
    counted; of labelled texts the classes (N), and `segments` is 0 where a text is padded.
    """

    name: str
    quality: Figure
    tokens: Tensor
    targets: Tensor
    segments: Tensor
    num_beams: int = 1
    """Hypotheses that decoding keeps, of pairs."""
    samples: Classification | Translation | None = None
    """What rows were taken from; stays with the process that took them."""
    rows: tuple[int, ...] = ()
    """Of pairs: which of the held-out rows they are."""

    @property
    def num_windows(self) -> int:
        return len(self.tokens)

    @property
    def num_predictions(self) -> int:
        return int((self.targets != IGNORED_TARGET).sum())

    @property
    def labels(self) -> list[str]:
        """Names of the classes; none without classes."""
        return list(self.samples.labels) if isinstance(self.samples, Classification) else []

    @property
    def signatures(self) -> list[str]:
        """How sacrebleu scores translations; none without."""
        return translation_signatures() if self.quality == "BLEU" else []

    def write(self, path: Path) -> None:
        """Write the tensors as safetensors."""
        tensors = {"tokens": self.tokens, "targets": self.targets, "segments": self.segments}
        facts = {"name": self.name, "quality": self.quality, "num_beams": str(self.num_beams)}
        library().save_file(tensors, path, facts)


def read(path: Path) -> HeldOut:
    """Return what `write` wrote."""
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("tokens", "targets", "segments")}
        facts = file.metadata()
    return HeldOut(facts["name"], facts["quality"], **tensors, num_beams=int(facts["num_beams"]))


@dataclass(frozen=True)
class Asked:
    """What a person asks a model to be judged by."""

    data: str | None = None
    """Of text as data.source, of rows as data.validation_source; unset is what its run kept from training."""
    target_data: str | None = None
    """As data.validation_target_source."""
    max_bytes: int | None = None
    """Only so much of `data`."""


def task_of(opened: OpenedModel) -> str:
    """Return what a model was trained to do, as data.task names it; of a folder that does not say, from its kind."""
    if opened.model.kind == "encoder":
        return "classification"
    translates = opened.config is not None and opened.config.data.task == "translation"
    return "translation" if translates else "language_modelling"


def held_out(opened: OpenedModel, asked: Asked, num_windows: int) -> HeldOut:
    """Return at most `num_windows` windows, spread evenly over the data that a model is to predict.

    Raises UserError when there is none.
    """
    if task_of(opened) != "language_modelling":
        return _rows(opened, asked, num_windows)
    return _windows(text_for(opened, asked), opened.model.context_length, num_windows)


def text_for(opened: OpenedModel, asked: Asked) -> Text:
    """Return the text that a language model is to predict. Raises UserError when there is none."""
    tokenizer = opened.needs_tokenizer()
    if asked.target_data is not None:
        raise UserError(f"--target-data holds translations, and {opened.path} does not translate. Leave it out.")
    if asked.data is not None:
        return text_of(asked.data, tokenizer, asked.max_bytes)
    if opened.kind != "checkpoint" or opened.config is None:
        raise UserError(f"{opened.path} says nothing of held-out text. Add --data FILE.")
    if opened.config.data.validation_fraction == 0:
        raise UserError("the run kept no text from training (data.validation_fraction=0). Add --data FILE.")
    return held_out_text(opened.config.data, tokenizer)


def _windows(text: Text, length: int, num_windows: int) -> HeldOut:
    """Cut a text into windows as training does, each predicting `length` tokens; a short text is one window."""
    length = min(length, len(text.ids) - 1)
    starts = spread(np.arange(0, len(text.ids) - length, length), num_windows)
    rows_NT = torch.from_numpy(np.stack([text.ids[at : at + length + 1] for at in starts]).astype(np.int64))
    tokens_NT = rows_NT[:, :-1].contiguous()
    return HeldOut(text.name, "perplexity", tokens_NT, rows_NT[:, 1:].contiguous(), torch.ones_like(tokens_NT))


def rows_for(opened: OpenedModel, asked: Asked) -> tuple[str, Classification | Translation]:
    """Return the held-out rows of a classifier or of a model that translates, and what to call them.

    Other rows than the run's own become tokens by the run's tokenizer, and have its classes. Raises UserError when
    there are none, or what the run was trained on, which says the classes, is gone.
    """
    if opened.config is None:
        raise UserError(f"{opened.path} does not say what it was trained on. Give the run's folder.")
    data, model = opened.config.data, opened.config.model
    file = prepare_rows(data)
    if asked.data is None and (asked.target_data is not None or asked.max_bytes is not None):
        raise UserError("--target-data and --max-bytes say more of --data, which is not given. Add it.")
    if asked.data is not None:
        if asked.target_data is not None and data.task == "classification":
            raise UserError(f"--target-data holds translations, and {opened.path} is a classifier. Leave it out.")
        update = {
            "validation_source": asked.data,
            "validation_target_source": asked.target_data,
            "max_bytes": asked.max_bytes,
        }
        file = prepare_held_out(data.model_copy(update=update), file)
    name = asked.data or f"held-out rows of {data.validation_source or data.source}"
    if data.task == "translation":
        return name, Translation(file, model.context_length, "validation")
    return name, Classification(file, model.context_length, "validation", front=model.pooling == "cls")


def _rows(opened: OpenedModel, asked: Asked, num_windows: int) -> HeldOut:
    name, samples = rows_for(opened, asked)
    assert opened.config is not None
    ids = spread(np.arange(samples.num_samples), num_windows)
    batch = samples.batch(ids, 1)
    tensors = batch.tokens_BT, batch.targets_BT
    if isinstance(samples, Classification):
        assert batch.segments_BT is not None
        return HeldOut(name, "accuracy", *tensors, batch.segments_BT, samples=samples)
    translation_signatures()  # so that what lacks is said before anything is written
    rows = tuple(samples.row_of(int(index)) for index in ids)
    beams = opened.config.train.eval_beams
    return HeldOut(name, "BLEU", *tensors, torch.ones_like(batch.tokens_BT), beams, samples, rows)


def spread(items: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the items, evenly spread over all."""
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, most).round().astype(np.int64)]
