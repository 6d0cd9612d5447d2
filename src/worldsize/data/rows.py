"""Hugging Face data sets as corpora: from the hub, or from a folder made by `save_to_disk`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsize.config.schema import DataConfig
from worldsize.data.hub import first_line, offline_when_unreachable
from worldsize.data.pieces import Piece, cut, limited
from worldsize.errors import UserError, nearest

SAVED_DATASET_FILES = ("dataset_dict.json", "state.json")
"""Either of them stands in a folder made by `save_to_disk`."""


@dataclass(frozen=True)
class RowCorpus:
    """One document a row."""

    rows: Any
    column: str
    digest: str
    max_bytes: int | None

    def pieces(self) -> Iterator[Piece]:
        return limited(self._pieces(), self.max_bytes)

    def _pieces(self) -> Iterator[Piece]:
        first = True
        for index, row in enumerate(self.rows):
            starts = True
            for piece in cut(io.BytesIO((row[self.column] or "").encode())):
                yield Piece(piece.decode(), starts and not first, (index + 1) / len(self.rows))
                starts = first = False


def is_saved_dataset(path: Path) -> bool:
    """Return whether `path` is a folder made by `save_to_disk`."""
    return any((path / name).is_file() for name in SAVED_DATASET_FILES)


def hub_corpus(data: DataConfig) -> RowCorpus:
    """Return the training split of 'hub:NAME[:CONFIG]'. Raises UserError when it cannot be had."""
    return _row_corpus(open_hub_split(data.source), data)


def open_hub_split(source: str) -> Any:
    """Return the split of 'hub:NAME[:CONFIG][@SPLIT]', 'train' if none is named. Raises UserError without it."""
    whole, _, split = source.removeprefix("hub:").partition("@")
    name, _, config = whole.partition(":")
    if not name:
        raise UserError(f"data.source={source!r} names no data set. Write hub:NAME or hub:NAME:CONFIG.")
    datasets = _datasets()
    offline_when_unreachable(datasets.config)
    try:
        return datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as error:  # every library below raises its own kind
        raise UserError(
            f"data.source={source!r}: the data set could not be loaded ({first_line(error)}). Check the name "
            "(hub:NAME or hub:NAME:CONFIG) and the connection, or give a local folder made by save_to_disk."
        ) from error


def saved_corpus(path: Path, data: DataConfig) -> RowCorpus:
    """Return the data set, or its training split, that `save_to_disk` wrote to `path`."""
    return _row_corpus(open_saved_split(path, None), data)


def open_saved_split(path: Path, split: str | None) -> Any:
    """Return the data set that `save_to_disk` wrote to `path`; of one with splits `split`, or 'train'."""
    datasets = _datasets()
    try:
        rows = datasets.load_from_disk(str(path))
    except Exception as error:  # every library below raises its own kind
        raise UserError(f"{path} could not be read as a saved data set ({first_line(error)}).") from error
    if not isinstance(rows, dict):
        return rows
    if (split or "train") not in rows:
        raise UserError(
            f"{path} has no split {split or 'train'!r} (it has {', '.join(rows)}). Give one split's own folder."
        )
    return rows[split or "train"]


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError("Hugging Face data sets need the extra 'hf': pip install 'worldsize[hf]'.") from error
    return datasets


def _row_corpus(rows: Any, data: DataConfig) -> RowCorpus:
    column = data.text_column
    if column not in rows.column_names:
        close = nearest(column, rows.column_names)
        hint = f" Did you mean data.text_column={close}?" if close else ""
        raise UserError(f"{data.source!r} has no column {column!r}.{hint} Its columns: {', '.join(rows.column_names)}.")
    if len(rows) == 0:
        raise UserError(f"data.source={data.source!r} is empty. Give a data set with rows.")
    if not isinstance(rows[0][column], str | None):
        raise UserError(f"column {column!r} of {data.source!r} does not hold text. Set data.text_column=COLUMN.")
    # The fingerprint is private, but it is the library's own name for content, and the same on every machine.
    digest = hashlib.sha256(f"{rows._fingerprint} {len(rows)} {column}".encode()).hexdigest()
    return RowCorpus(rows.select_columns([column]), column, digest, data.max_bytes)
