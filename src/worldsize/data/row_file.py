"""Rows as memory-mapped token ids: tokenized once, before any rank starts, and shared by every rank and later run.

In the cache folder, NAME being a digest of the rows' files, their columns, the tokenizer and this format:
`NAME.tokens.npy` (the ids of all texts, one after the other), `NAME.offsets.npy` (where each text begins, and the end),
`NAME.labels.npy` (a class a row), `NAME.tokenizer.json` and `NAME.rows.json` (what they are, written last).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from worldsize.config.schema import DataConfig
from worldsize.data.cache import atomic_file, cache_folder, locked
from worldsize.data.prepare import OnProgress, smallest_dtype
from worldsize.data.row_source import Row, RowTexts, read_rows, source_digest
from worldsize.data.tokenizer import Tokenizer, open_tokenizer, read_tokenizer, save_tokenizer
from worldsize.errors import UserError

FORMAT = 1
CHUNK_ROWS = 5000
Split = Literal["train", "validation"]


class _Description(BaseModel):
    """NAME.rows.json: what lies beside it."""

    model_config = ConfigDict(extra="forbid")

    num_rows: int
    num_train_rows: int
    texts_per_row: int
    num_tokens: int
    vocab_size: int
    end: int
    labels: list[str]
    digest: str
    held_out_targets: list[str]


@dataclass(frozen=True)
class RowFile:
    """Tokenized rows on disk: those to train on first, then those held out."""

    path: Path
    """NAME.rows.json."""
    num_rows: int
    num_train_rows: int
    texts_per_row: int
    """1, or of translation 2: source and target."""
    vocab_size: int
    """Of the tokenizer, and `end` where it has none."""
    end: int
    """Id of the token that ends a text: the tokenizer's end of text, else one more than its largest id."""
    labels: tuple[str, ...]
    """Names of the classes; none without classes."""
    digest: str
    """SHA-256 of ids, offsets and classes."""
    held_out_targets: tuple[str, ...]
    """Of translation: the held-out rows' target texts as they were, which translations are scored against."""
    tokenizer: str
    source: str

    def tokens(self) -> np.ndarray:
        """Return all ids, memory-mapped."""
        return _mapped(self.path, "tokens")

    def offsets(self) -> np.ndarray:
        """Return where each text begins in `tokens`, and where the last ends."""
        return _mapped(self.path, "offsets")

    def classes(self) -> np.ndarray:
        """Return each row's class."""
        return _mapped(self.path, "labels")

    def rows_of(self, split: Split) -> range:
        """Return the numbers of a split's rows."""
        return range(self.num_train_rows) if split == "train" else range(self.num_train_rows, self.num_rows)

    def tokenizer_used(self) -> Tokenizer:
        """Return the tokenizer that made the ids."""
        return read_tokenizer(self.tokenizer, self.path)


def prepare_rows(data: DataConfig, *, on_progress: OnProgress | None = None) -> RowFile:
    """Return the tokenized rows, made now or found in the cache.

    Safe to call from several processes at once: one makes them, the others wait. Raises UserError when rows, columns,
    classes, the tokenizer or the cache folder are at fault.
    """
    report = on_progress or _say_nothing
    folder = cache_folder(data.cache_dir)
    sources = source_digest(data.source, data.target_source)
    held_out = source_digest(data.validation_source, data.validation_target_source) if data.validation_source else ""
    key = f"{FORMAT} {sources} {held_out} {_columns(data)} {data.tokenizer} {data.max_bytes} {data.validation_fraction}"
    path = _path_of(key, folder)
    found = _found_or(path, report, lambda: _make(path, sources, data, report))
    return _row_file(path, found, data.tokenizer, data.source)


def prepare_held_out(data: DataConfig, like: RowFile) -> RowFile:
    """Return the rows of `data.validation_source` alone, with the tokenizer and the classes of `like`.

    Raises UserError when rows, columns, classes or the cache folder are at fault.
    """
    assert data.validation_source is not None
    held_out = source_digest(data.validation_source, data.validation_target_source)
    tokenizer = like.tokenizer_used()
    key = f"{FORMAT} held out {held_out} {_columns(data)} {tokenizer.digest} {like.labels} {data.max_bytes}"
    path = _path_of(key, cache_folder(data.cache_dir))

    def make() -> _Description:
        rows = read_rows(data, held_out=True)
        return _write(path, rows, 0, tokenizer, list(like.labels), data, _say_nothing)

    return _row_file(path, _found_or(path, _say_nothing, make), like.tokenizer, data.validation_source)


def _columns(data: DataConfig) -> list[str | None]:
    return [data.task, data.text_column, data.validation_text_column, data.label_column, data.target_column]


def _path_of(key: str, folder: Path) -> Path:
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.rows.json"


def _found_or(path: Path, report: OnProgress, make: Callable[[], _Description]) -> _Description:
    """Return what the cache knows of `path`; one process makes it where it is absent, others wait."""
    found = _read(path)
    if found is None:
        with locked(path.with_suffix(".lock"), lambda: report(0.0, "waiting for another process to tokenize")):
            found = _read(path) or make()
    return found


def _say_nothing(_share: float, _doing: str) -> None:
    pass


def _row_file(path: Path, found: _Description, tokenizer: str, source: str) -> RowFile:
    return RowFile(
        path=path,
        tokenizer=tokenizer,
        source=source,
        labels=tuple(found.labels),
        held_out_targets=tuple(found.held_out_targets),
        **found.model_dump(include={"num_rows", "num_train_rows", "texts_per_row", "vocab_size", "end", "digest"}),
    )


def _read(path: Path) -> _Description | None:
    """Return what the cache knows of `path`, or None when it has to be made."""
    try:
        found = _Description.model_validate_json(path.read_bytes())
        whole = len(_mapped(path, "tokens")) == found.num_tokens and len(_mapped(path, "labels")) == found.num_rows
        whole = whole and len(_mapped(path, "offsets")) == found.num_rows * found.texts_per_row + 1
        return found if whole else None
    except (OSError, ValueError):
        return None


def _array_path(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name.removesuffix('.rows.json')}.{name}.npy")


def _mapped(path: Path, name: str) -> np.ndarray:
    array: np.ndarray = np.load(_array_path(path, name), mmap_mode="r")
    return array


def _make(path: Path, sources: str, data: DataConfig, report: OnProgress) -> _Description:
    """Tokenize the rows beside `path` and describe them. The caller holds the lock."""
    rows, num_train_rows = _split_rows(data)
    corpus_digest = f"{sources} {data.max_bytes} {num_train_rows} {data.text_column} {data.target_column}"
    texts = tuple(text for row in rows[:num_train_rows] for text in row.texts)
    corpus = RowTexts(texts, hashlib.sha256(corpus_digest.encode()).hexdigest())
    tokenizer = open_tokenizer(data.tokenizer, corpus, path.parent, lambda: report(0.0, f"training {data.tokenizer}"))
    return _write(path, rows, num_train_rows, tokenizer, _class_names(rows[:num_train_rows]), data, report)


def _write(
    path: Path,
    rows: Sequence[Row],
    num_train_rows: int,
    tokenizer: Tokenizer,
    labels: list[str],
    data: DataConfig,
    report: OnProgress,
) -> _Description:
    """Write the arrays and the description. The caller holds the lock."""
    dtype = smallest_dtype(tokenizer.vocab_size)
    parts = [text for row in rows for text in row.texts]
    encoded: list[np.ndarray] = []
    for first in range(0, len(parts), CHUNK_ROWS):
        encoded += tokenizer.encode_batch(parts[first : first + CHUNK_ROWS])
        report(min(1.0, (first + CHUNK_ROWS) / len(parts)), "tokenizing")
    arrays = {
        "tokens": np.concatenate(encoded).astype(dtype),
        "offsets": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        "labels": np.array([_class_of(row, labels, data) for row in rows], dtype=np.int32),
    }
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(array.dtype.str.encode() + array.tobytes())
        with atomic_file(_array_path(path, name)) as file:
            np.save(file, array)
    save_tokenizer(tokenizer, path)
    end = tokenizer.end_of_text
    description = _Description(
        num_rows=len(rows),
        num_train_rows=num_train_rows,
        texts_per_row=len(rows[0].texts),
        num_tokens=len(arrays["tokens"]),
        vocab_size=tokenizer.vocab_size + (end is None),
        end=tokenizer.vocab_size if end is None else end,
        labels=labels,
        digest=digest.hexdigest(),
        held_out_targets=[row.texts[1] for row in rows[num_train_rows:]] if data.task == "translation" else [],
    )
    with atomic_file(path) as file:
        file.write(description.model_dump_json(indent=1).encode())
    return description


def _split_rows(data: DataConfig) -> tuple[list[Row], int]:
    """Return all rows, those held out last, and how many come before them."""
    rows = read_rows(data)
    if data.validation_source is not None:
        held_out = read_rows(data, held_out=True)
        return rows + held_out, len(rows)
    num_train_rows = len(rows) - int(len(rows) * data.validation_fraction)
    return rows, num_train_rows


def _class_names(rows: Sequence[Row]) -> list[str]:
    """Return the classes of the rows: in the order of their numbers where all are numbers, else of the alphabet."""
    names = {row.label for row in rows if row.label is not None}
    if names and all(name.lstrip("-").isdecimal() for name in names):
        return sorted(names, key=int)
    return sorted(names)


def _class_of(row: Row, labels: list[str], data: DataConfig) -> int:
    if row.label is None:
        return 0
    if row.label not in labels:
        raise UserError(
            f"class {row.label!r} in column {data.label_column!r} is held out and never trained on. Classes in "
            f"training: {', '.join(labels[:20])}. Give other held-out rows, or data.validation_source=FILE."
        )
    return labels.index(row.label)
