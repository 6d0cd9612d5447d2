"""Held-out data that two models are compared on: windows of text, or labelled texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from worldsize.config.schema import Config
from worldsize.data.task import prepare_task
from worldsize.errors import UserError
from worldsize.inference.evaluate import Text, held_out_text, text_of
from worldsize.inference.open_model import OpenedModel
from worldsize.inference.tensor_files import library

Quality = Literal["perplexity", "accuracy"]


@dataclass(frozen=True)
class HeldOut:
    """What is predicted, as tensors that another process can read.

    N windows of T tokens. Of text `targets` are the next tokens (N, T); of labelled texts the classes (N), and
    `segments` is 0 where a text is padded.
    """

    name: str
    quality: Quality
    tokens: Tensor
    targets: Tensor
    segments: Tensor

    @property
    def num_windows(self) -> int:
        return len(self.tokens)

    def write(self, path: Path) -> None:
        """Write the tensors as safetensors."""
        tensors = {"tokens": self.tokens, "targets": self.targets, "segments": self.segments}
        library().save_file(tensors, path, {"name": self.name, "quality": self.quality})


def read(path: Path) -> HeldOut:
    """Return what `write` wrote."""
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("tokens", "targets", "segments")}
        facts = file.metadata()
    return HeldOut(facts["name"], facts["quality"], **tensors)


def held_out(opened: OpenedModel, data: str | None, max_bytes: int | None, num_windows: int) -> HeldOut:
    """Return at most `num_windows` windows, spread evenly over the data that a model is to predict.

    `data` unset is what its run kept from training. Raises UserError when there is none.
    """
    if opened.model.kind == "encoder":
        return _labelled(opened, data, num_windows)
    return _windows(text_for(opened, data, max_bytes), opened.model.context_length, num_windows)


def text_for(opened: OpenedModel, data: str | None, max_bytes: int | None) -> Text:
    """Return the text that a language model is to predict. Raises UserError when there is none."""
    tokenizer = opened.needs_tokenizer()
    if data is not None:
        return text_of(data, tokenizer, max_bytes)
    if opened.kind != "checkpoint" or opened.config is None:
        raise UserError(f"{opened.path} says nothing of held-out text. Add --data FILE.")
    if opened.config.data.task == "translation":
        raise UserError(
            f"{opened.path} translates, which is not text to predict. Add --data FILE to predict one anyway."
        )
    if opened.config.data.validation_fraction == 0:
        raise UserError("the run kept no text from training (data.validation_fraction=0). Add --data FILE.")
    return held_out_text(opened.config.data, tokenizer)


def _windows(text: Text, length: int, num_windows: int) -> HeldOut:
    """Cut a text into windows as training does, each predicting `length` tokens; a short text is one window."""
    length = min(length, len(text.ids) - 1)
    starts = _spread(np.arange(0, len(text.ids) - length, length), num_windows)
    rows_NT = torch.from_numpy(np.stack([text.ids[at : at + length + 1] for at in starts]).astype(np.int64))
    tokens_NT = rows_NT[:, :-1].contiguous()
    return HeldOut(text.name, "perplexity", tokens_NT, rows_NT[:, 1:].contiguous(), torch.ones_like(tokens_NT))


def _labelled(opened: OpenedModel, data: str | None, num_windows: int) -> HeldOut:
    if opened.config is None:
        raise UserError(f"{opened.path} does not say what it was trained on. Give the run's folder.")
    config: Config = opened.config
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"validation_source": data})})
    samples = prepare_task(config.data).samples(config, "validation")
    batch = samples.batch(_spread(np.arange(samples.num_samples), num_windows), 1)
    assert batch.segments_BT is not None
    name = f"held-out texts of {config.data.validation_source or config.data.source}"
    return HeldOut(name, "accuracy", batch.tokens_BT, batch.targets_BT, batch.segments_BT)


def _spread(items: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the items, evenly spread over all."""
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, most).round().astype(np.int64)]
