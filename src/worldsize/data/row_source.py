"""Rows of text, with a class or a translation: of CSV, JSON lines, Parquet, text files or Hugging Face data sets.

A row source is read whole: tasks that train on rows have some ten MB of them, and they are read once, to be tokenized.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsize.config.schema import DataConfig
from worldsize.data.corpus import decompressed, missing, reading
from worldsize.data.pieces import Piece
from worldsize.data.rows import is_saved_dataset, open_hub_split, open_saved_split
from worldsize.errors import UserError, nearest

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One sample before it is tokenized: a text and its class, or a source and its target text."""

    texts: tuple[str, ...]
    label: str | None = None


@dataclass(frozen=True)
class RowTexts:
    """Texts as documents of a corpus."""

    texts: tuple[str, ...]
    digest: str
    max_bytes: int | None = None

    def pieces(self) -> Iterator[Piece]:
        for index, text in enumerate(self.texts):
            yield Piece(text, index > 0, (index + 1) / len(self.texts))


def source_digest(source: str, target_source: str | None) -> str:
    """Return what names a row source's content: of files the SHA-256 of their bytes, of other data sets their name.

    A data set of the hub or in a folder is opened by `datasets`, whose own cache is not looked into here.
    """
    digest = hashlib.sha256()
    for name in (source, target_source):
        path = None if name is None or name.startswith("hub:") else Path(_without_split(name)).expanduser()
        if name is not None and path is not None and not path.exists():
            raise missing(name, path)
        if path is not None and path.is_file():
            with reading(path), open(path, "rb") as stream:
                digest.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())
        elif path is not None:
            digest.update(
                "".join(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in sorted(path.rglob("*"))).encode()
            )
        else:
            digest.update(str(name).encode())
    return digest.hexdigest()


def read_rows(data: DataConfig, *, held_out: bool = False) -> list[Row]:
    """Return the rows of `data.source`, or of `data.validation_source`, with the columns that the task needs.

    Raises UserError for what does not exist, cannot be read, has no such column, or holds no rows.
    """
    source = data.validation_source if held_out else data.source
    target = data.validation_target_source if held_out else data.target_source
    assert source is not None
    column = (data.validation_text_column if held_out else None) or data.text_column
    if data.task == "translation" and target is not None:
        found = _line_pairs(source, target)
    else:
        found = _from_records(_records(source, _all_numbers(_names(column))), _names(column), data, source)
    rows = _limited(found, data.max_bytes)
    if not rows:
        raise UserError(f"{source!r} holds no rows. Give a file or data set that does.")
    return rows


def _limited(rows: Iterator[Row], max_bytes: int | None) -> list[Row]:
    """Return the rows that lie within the first `max_bytes` of text."""
    kept: list[Row] = []
    num_bytes = 0
    for row in rows:
        num_bytes += sum(len(text.encode()) for text in row.texts)
        if max_bytes is not None and num_bytes > max_bytes:
            break
        kept.append(row)
    return kept


def _names(column: str) -> list[str]:
    return [name.strip() for name in column.split(",")]


def _all_numbers(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _from_records(records: Iterator[Record], names: list[str], data: DataConfig, source: str) -> Iterator[Row]:
    second = data.label_column if data.task == "classification" else data.target_column
    for number, record in enumerate(records, 1):
        absent = next((name for name in (*names, second) if name not in record), None)
        if absent is not None:
            raise _no_column(absent, source, number, list(record), data)
        text = " ".join(str(record[name] or "") for name in names)
        other = str(record[second])
        yield Row((text,), other) if data.task == "classification" else Row((text, other))


def _no_column(column: str, source: str, number: int, columns: list[str], data: DataConfig) -> UserError:
    close = nearest(column, columns)
    hint = f" Did you mean {close!r}?" if close else ""
    key = "label_column" if data.task == "classification" else "target_column"
    return UserError(
        f"{source!r} has no column {column!r} in row {number}.{hint} Its columns: {', '.join(columns)}. "
        f"Set data.text_column and data.{key}; of a .csv without a header, to numbers from 0."
    )


def _records(source: str, without_header: bool) -> Iterator[Record]:
    """Yield a source's rows as column → value."""
    if source.startswith("hub:"):
        yield from _with_class_names(open_hub_split(source))
        return
    path = Path(_without_split(source)).expanduser()
    if not path.exists():
        raise missing(source, path)
    if is_saved_dataset(path):
        yield from _with_class_names(open_saved_split(path, _split(source)))
    elif (kind := _kind(path)) in (".csv", ".tsv"):
        yield from _csv_records(path, "," if kind == ".csv" else "\t", without_header)
    elif kind in (".jsonl", ".json"):
        yield from _json_records(path)
    elif kind == ".parquet":
        yield from _parquet_records(path)
    else:
        raise UserError(
            f"{source!r} is no file of rows. Allowed: .csv, .tsv, .jsonl (each also .gz or .xz), .parquet, "
            "'hub:NAME[:CONFIG][@SPLIT]', a folder made by save_to_disk; for translation also a text file with a "
            "data.target_source beside it."
        )


def _kind(path: Path) -> str:
    """Return the suffix that says what is in a file, compressed or not."""
    return (path.with_suffix("") if path.suffix in (".gz", ".xz") else path).suffix.lower()


def _without_split(source: str) -> str:
    return source.rpartition("@")[0] if "@" in source and not Path(source).exists() else source


def _split(source: str) -> str | None:
    return source.rpartition("@")[2] if _without_split(source) != source else None


def _text_of(path: Path) -> io.StringIO:
    """Return a whole text file, decompressed, its line ends as they are. Raises UserError where it is not UTF-8."""
    with reading(path), open(path, "rb") as stored:
        content = decompressed(path, stored).read()
    try:
        return io.StringIO(content.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: byte 0x{content[error.start]:02x} at offset {error.start}. "
            "Convert it: iconv -f ENCODING -t UTF-8."
        ) from error


def _csv_records(path: Path, delimiter: str, without_header: bool) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(_text_of(path), delimiter=delimiter)
    try:
        header = None if without_header else next(lines, [])
        for line in lines:
            if line:
                names = header or [str(index) for index in range(len(line))]
                yield dict(zip(names, line, strict=False))
    except csv.Error as error:
        raise UserError(f"{path}, line {lines.line_num}: {error}. Mend the line or its quotes.") from error


def _json_records(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_text_of(path).read().splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}. Give one JSON object a line.") from error
        if not isinstance(record, dict):
            raise UserError(f'{path}, line {number} is no JSON object. Give one a line, such as {{"text": "…"}}.')
        yield record


def _parquet_records(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{path}: .parquet needs the extra 'hf': pip install 'worldsize[hf]'.") from error
    try:
        table = parquet.read_table(path)
    except Exception as error:  # the library raises its own kinds, and OSError
        raise UserError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0][:200]}).") from error
    yield from table.to_pylist()


def _with_class_names(rows: Any) -> Iterator[Record]:
    """Yield a data set's rows, each class by its name where the data set names its classes."""
    names = {column: feature.int2str for column, feature in rows.features.items() if hasattr(feature, "int2str")}
    for row in rows:
        yield {key: names[key](value) if key in names else value for key, value in row.items()}


def _line_pairs(source: str, target: str) -> Iterator[Row]:
    """Yield line i of one file with line i of another."""
    sides = []
    for name in (source, target):
        path = Path(name).expanduser()
        if not path.is_file():
            raise missing(name, path)
        sides.append(_text_of(path).read().splitlines())
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{source!r} has {len(sides[0])} lines and {target!r} has {len(sides[1])}. Line i of one must translate "
            "line i of the other."
        )
    for pair in zip(*sides, strict=True):
        yield Row(pair)
