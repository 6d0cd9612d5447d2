"""How well a model predicts a text: negative log-likelihood of each token, in windows of a fixed stride.

The windows take T tokens in and predict the next one at each place, T being the model's context. They begin `stride`
tokens apart; a token that an earlier window has predicted is not counted again. So every counted token but those of
the first window sees at least T - stride tokens before it. With a stride of T the windows are training's samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from worldsize.config.schema import DataConfig
from worldsize.data.corpus import open_corpus
from worldsize.data.prepare import prepare
from worldsize.data.tokenizer import Tokenizer
from worldsize.data.workers import chunks, tokenize
from worldsize.errors import UserError
from worldsize.inference.engine import Engine
from worldsize.inference.quality_records import Quality

WINDOWS_AT_ONCE = 8


class Text:
    """Token ids to predict, and how many bytes of text they are."""

    def __init__(self, name: str, ids: np.ndarray, num_bytes: int) -> None:
        self.name = name
        self.ids = ids
        self.num_bytes = num_bytes


def text_of(source: str, tokenizer: Tokenizer, max_bytes: int | None) -> Text:
    """Tokenize a source of text, as data.source names one. Documents are separated as in training.

    Raises UserError when it cannot be read or is too short.
    """
    pieces = list(open_corpus(DataConfig(source=source, max_bytes=max_bytes)).pieces())
    ids = np.concatenate([tokenize(tokenizer, chunk).ids for chunk in chunks(iter(pieces))] or [np.empty(0, np.uint8)])
    num_bytes = sum(len(piece.text.encode()) for piece in pieces)
    return _checked(Text(source, ids, num_bytes - _num_bytes(tokenizer, ids[:1])))


def held_out_text(data: DataConfig, tokenizer: Tokenizer) -> Text:
    """Return the text that a run with this config keeps from training. Raises UserError when it keeps none."""
    token_file = prepare(data)
    ids = token_file.tokens()[token_file.num_train_tokens :]
    return _checked(Text(f"held-out text of {data.source}", ids, _num_bytes(tokenizer, ids[1:])))


def _checked(text: Text) -> Text:
    if len(text.ids) < 2:
        raise UserError(
            f"{text.name} holds {len(text.ids)} tokens; evaluating needs at least 2. Give --data more text."
        )
    return text


def _num_bytes(tokenizer: Tokenizer, ids: np.ndarray) -> int:
    """Return the bytes of UTF-8 of what ids stand for, the token between documents left out."""
    kept = ids if tokenizer.end_of_text is None else ids[ids != tokenizer.end_of_text]
    return len(tokenizer.decode(kept.tolist()).encode())


def evaluate(
    engine: Engine, text: Text, *, stride: int, on_progress: Callable[[float], None] | None = None
) -> np.ndarray:
    """Return the negative log-likelihood of each token of a text but the first, in nats, float64.

    The engine needs WINDOWS_AT_ONCE slots. Raises UserError for a stride that is not between 1 and the context.
    """
    if not 1 <= stride <= engine.length:
        raise UserError(f"--stride is {stride}, but must be from 1 to the context's {engine.length} tokens.")
    losses: list[np.ndarray] = []
    for batch in _batches(text.ids, engine.length, stride):
        losses += _window_losses(engine, [window for window, _ in batch], [skip for _, skip in batch])
        if on_progress is not None:
            on_progress(sum(map(len, losses)) / (len(text.ids) - 1))
    return np.concatenate(losses)


Window = tuple[np.ndarray, int]
"""Ids, and how many of its predictions an earlier window has made."""


def _batches(ids: np.ndarray, length: int, stride: int) -> Iterator[list[Window]]:
    """Yield windows of at most `length` + 1 ids in order, those of equal length together."""
    batch: list[Window] = []
    for window in _windows(ids, length, stride):
        if batch and (len(batch) == WINDOWS_AT_ONCE or len(window[0]) != len(batch[0][0])):
            yield batch
            batch = []
        batch.append(window)
    yield batch


def _windows(ids: np.ndarray, length: int, stride: int) -> Iterator[Window]:
    predicted = 0  # the last id that has been predicted
    for begin in range(0, len(ids), stride):
        window = ids[begin : begin + length + 1]
        yield window, predicted - begin
        predicted = begin + len(window) - 1
        if predicted == len(ids) - 1:
            return


@torch.inference_mode()
def _window_losses(engine: Engine, windows: list[np.ndarray], skips: list[int]) -> list[np.ndarray]:
    rows_BT = torch.from_numpy(np.stack(windows).astype(np.int64))
    logits_BTV = engine.score(rows_BT[:, :-1])
    losses_BT = F.cross_entropy(logits_BTV.flatten(0, 1), rows_BT[:, 1:].flatten(), reduction="none")
    losses_BT = losses_BT.view(len(windows), -1).double()
    return [row[skip:].numpy() for row, skip in zip(losses_BT, skips, strict=True)]


def quality_of(losses: np.ndarray, text: Text, *, model: str, method: str, context_length: int, stride: int) -> Quality:
    """Return the record of what `evaluate` found."""
    loss = float(losses.mean())
    stderr = float(losses.std(ddof=1) / math.sqrt(len(losses))) if len(losses) > 1 else 0.0
    return Quality(
        model=model,
        method=method,
        data=text.name,
        num_tokens=len(losses),
        num_bytes=text.num_bytes,
        context_length=context_length,
        stride=stride,
        loss=loss,
        loss_stderr=stderr,
        perplexity=math.exp(loss),
        bits_per_byte=float(losses.sum()) / math.log(2) / text.num_bytes,
    )
