"""Two models on the same windows: the second process of `worldsize quantize`.

`python -m worldsize.inference.compare ORIGINAL QUANTIZED HELD_OUT THREADS` loads both folders, runs them, and prints a
Comparison as JSON. It knows nothing of the process that wrote the folders.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from worldsize.data.batch import IGNORED_TARGET
from worldsize.errors import UserError
from worldsize.inference.engine import Engine
from worldsize.inference.evaluate_rows import translations_of
from worldsize.inference.held_out import HeldOut, read
from worldsize.inference.open_model import OpenedModel, open_model
from worldsize.inference.packed_encoder import classifier
from worldsize.records import Record

LOGITS_AT_ONCE = 2**25
"""Elements of one model's logits that are held: 128 MiB in fp32."""

Forward = Callable[[Tensor, Tensor], Tensor]
"""Tokens and segments (N, T) → logits of what is predicted: (N, T, V) of text, (N, 1, K) of classes."""


class Sums(Record):
    """Sums over each window's predictions."""

    num_predictions: list[int]
    loss_original: list[float]
    loss_quantized: list[float]
    right_original: list[int]
    right_quantized: list[int]
    kl: list[float]
    same_top1: list[int]


class Comparison(Record):
    """What two models make of the same held-out data."""

    sums: Sums
    classes_original: list[int] = Field(default_factory=list)
    """Of labelled texts: the likeliest class of each."""
    classes_quantized: list[int] = Field(default_factory=list)
    translations_original: list[list[int]] = Field(default_factory=list)
    """Of pairs: the translation of each source, as token ids."""
    translations_quantized: list[list[int]] = Field(default_factory=list)


def forward_of(opened: OpenedModel, num_rows: int, length: int) -> Forward:
    """Return how a model's logits are had."""
    if opened.model.kind == "encoder":
        encoder = classifier(opened)
        return lambda tokens_NT, segments_NT: encoder(tokens_NT, segments_NT).unsqueeze(1)
    engine = Engine(opened, num_slots=num_rows, length=length)
    return lambda tokens_NT, segments_NT: engine.score(tokens_NT)


@torch.inference_mode()
def compare(original: OpenedModel, quantized: OpenedModel, data: HeldOut) -> Comparison:
    """Run both. Raises UserError when the quantized model's logits are not finite."""
    length = data.tokens.shape[1]
    width = 1 if data.quality == "accuracy" else length * (original.model.vocab_size or 1)
    num_rows = max(1, min(data.num_windows, LOGITS_AT_ONCE // width, 32))
    forwards = [forward_of(opened, num_rows, length) for opened in (original, quantized)]
    found: dict[str, list[float]] = {name: [] for name in Sums.model_fields}
    classes: tuple[list[int], list[int]] = [], []
    for first in range(0, data.num_windows, num_rows):
        rows = slice(first, first + num_rows)
        tokens_NT, segments_NT = data.tokens[rows], data.segments[rows]
        exact, rounded = (forward(tokens_NT, segments_NT) for forward in forwards)
        if not rounded.isfinite().all():
            raise UserError("its logits are not all finite")
        targets = data.targets[rows].view(len(tokens_NT), -1)
        for name, sums_N in window_sums(exact, rounded, targets).items():
            found[name] += sums_N.tolist()
        if data.quality == "accuracy":
            for answers, logits in zip(classes, (exact, rounded), strict=True):
                answers += logits[:, 0].argmax(-1).tolist()
    sums = Sums.model_validate(found)
    if data.quality != "BLEU":
        return Comparison(sums=sums, classes_original=classes[0], classes_quantized=classes[1])
    ours, theirs = (_translations(opened, data) for opened in (original, quantized))
    return Comparison(sums=sums, translations_original=ours, translations_quantized=theirs)


def window_sums(exact: Tensor, rounded: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return what Sums holds of some windows, from logits (N, T, V) and targets (N, T)."""
    exact, rounded = exact.double().log_softmax(-1), rounded.double().log_softmax(-1)
    tops = exact.argmax(-1), rounded.argmax(-1)
    counted = targets != IGNORED_TARGET
    at = targets.clamp(min=0).unsqueeze(-1)
    return {
        "num_predictions": counted.sum(1),
        "loss_original": -(exact.gather(-1, at).squeeze(-1) * counted).sum(1),
        "loss_quantized": -(rounded.gather(-1, at).squeeze(-1) * counted).sum(1),
        "right_original": (tops[0] == targets).sum(1),
        "right_quantized": (tops[1] == targets).sum(1),
        "kl": (F.kl_div(rounded, exact, reduction="none", log_target=True).sum(-1) * counted).sum(1),
        "same_top1": ((tops[0] == tops[1]) & counted).sum(1),
    }


def _translations(opened: OpenedModel, data: HeldOut) -> list[list[int]]:
    """Translate the sources of pairs: what stands before the end token, at which the first target is predicted."""
    ends = (data.targets != IGNORED_TARGET).int().argmax(1).tolist()
    sources = [tokens[:end].tolist() for tokens, end in zip(data.tokens, ends, strict=True)]
    return translations_of(opened, sources, int(data.tokens[0, ends[0]]), data.num_beams)


def main(original: str, quantized: str, data: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    try:
        found = compare(open_model(original), open_model(quantized), read(Path(data)))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(found.model_dump_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
