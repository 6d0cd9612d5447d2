"""From a file of somebody's numbers to rows. Whatever is wrong is a UserError that names the file, line and column."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from worldsize.audit.columns import COLUMNS, EPOCH, canonical, not_read
from worldsize.audit.epochs import EpochRow, combined
from worldsize.audit.records import LARGEST, Row
from worldsize.errors import UserError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
LISTS = ("per_rank_times_s", "step_times_s")
LAST_COUNTS = ("validation_loss", "last_loss")
ABSENT = {"", "-", "–", "na", "n/a", "nan", "none", "null"}
LARGEST_FILE_BYTES = 50_000_000


@dataclass(frozen=True)
class Raw:
    """A record as it stands in the file: where, and the values by the file's own names."""

    where: str
    values: Mapping[str, Any]


def read_rows(path: Path, devices: int | None = None) -> tuple[list[Row], list[str]]:
    """Read one file; return its rows and notes on what was not read. `devices` fills in what the file does not tell.

    Raises UserError that names the file, line and column at fault.
    """
    raws = _raws(path)
    if not raws:
        raise UserError(f"{path} holds no rows. Give a CSV with a header and a line a run, or a JSON list of runs.")
    unread = {name: None for raw in raws for name in raw.values if canonical(str(name)) is None}
    rows = combined([_row(raw, devices) for raw in raws], str(path))
    if not any(row.model_dump(exclude={"where", "devices"}, exclude_none=True) for row in rows):
        raise UserError(f"{path} has no column that is read. Columns: {', '.join(COLUMNS)}; all are optional.")
    return rows, [f"{path}: {not_read(map(str, unread))}"] if unread else []


def _raws(path: Path) -> list[Raw]:
    text = _text(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        return [Raw(f"{path}, line {n}", _object(f"{path}, line {n}", _json(f"{path}, line {n}", line)))
                for n, line in lines]  # fmt: skip
    if path.suffix.lower() == ".json":
        return _of_json(path, _json(str(path), text))
    return _of_csv(path, text)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise UserError(f"{path} is larger than {LARGEST_FILE_BYTES / 1e6:.0f} MB: is it a table of results?")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8 text. Save it as UTF-8.") from error


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f", line {error.lineno}" if "line" not in where else ""
        raise UserError(f"{where}{at}, column {error.colno}: {error.msg}. It is not JSON.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON that can be read ({type(error).__name__}).") from error


def _of_json(path: Path, tree: Any) -> list[Raw]:
    """A list of runs, an object that holds one under 'runs' or 'results', or a single run."""
    runs = tree
    if isinstance(tree, dict):
        if "cells" in tree and "verdict" in tree:
            raise UserError(f"{path} is a study's results.json. Give the study's folder: worldsize audit {path.parent}")
        runs = next((tree[key] for key in ("runs", "results") if isinstance(tree.get(key), list)), [tree])
    if not isinstance(runs, list):
        raise UserError(f"{path}: it holds {_shown(tree)}. Give a list of runs, each an object of columns.")
    return [Raw(f"{path}, run {n}", _object(f"{path}, run {n}", run)) for n, run in enumerate(runs, 1)]


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {_shown(value)} is no run. Each run is an object of columns.")
    return value


def _of_csv(path: Path, text: str) -> list[Raw]:
    lines = text.splitlines()
    header = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    raws = []
    try:
        for fields in reader:
            if not any(field.strip() for field in fields) or fields[0].lstrip().startswith("#"):
                continue
            where = f"{path}, line {reader.line_num}"
            if not names:
                names = _header(where, fields)
            elif len(fields) != len(names):
                raise UserError(f"{where}: {len(fields)} fields, but the header names {len(names)} columns.")
            else:
                raws.append(Raw(where, dict(zip(names, fields, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}. It is not CSV that can be read.") from error
    return raws


def _header(where: str, fields: Sequence[str]) -> list[str]:
    names = [field.strip() for field in fields]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise UserError(f"{where}: the column {_shown(twice)} appears twice. Rename or drop one.")
    return names


def _row(raw: Raw, devices: int | None) -> EpochRow:
    """Turn one record into a row, column by column."""
    values: dict[str, Any] = {}
    came_from: dict[str, str] = {}
    for name, value in raw.values.items():
        known = canonical(str(name))
        if known is None or _is_absent(value):
            continue
        column, factor = known
        if column in values:
            raise UserError(f"{raw.where}: columns {came_from[column]!r} and {name!r} both give {column}. Keep one.")
        came_from[column] = str(name)
        values[column] = _value(f"{raw.where}, column {_shown(str(name))}", column, value, factor)
        if column == "last_loss" and isinstance(value, list) and "first_loss" not in values:
            values["first_loss"] = _number(f"{raw.where}, column {_shown(str(name))}", value[0])
    if devices is not None and values.setdefault("devices", devices) != devices:
        raise UserError(f"{raw.where}: devices is {values['devices']}, but {devices}= was given before the path.")
    epoch = values.pop(EPOCH, None)
    try:
        return EpochRow(epoch, Row.model_validate({**values, "where": raw.where}))
    except ValidationError as error:
        raise UserError(_fault(raw.where, error, came_from)) from error


def _is_absent(value: Any) -> bool:
    return (
        value is None or value != value or value == [] or (isinstance(value, str) and value.strip().lower() in ABSENT)
    )


def _value(where: str, column: str, value: Any, factor: float) -> Any:
    if column in LISTS:
        listed = value if isinstance(value, list) else _split(where, value)
        return [_number(where, each) * factor for each in listed]
    if _is_text(column):
        if isinstance(value, (list, dict)):
            raise UserError(f"{where}: {_shown(value)} is no word.")
        return str(value)
    if isinstance(value, list):
        numbers = [_number(where, each) for each in value]
        return numbers[-1] if column in LAST_COUNTS else median(numbers) * factor
    number = _number(where, value)
    return number * factor if factor != 1 else number


def _is_text(column: str) -> bool:
    field = Row.model_fields.get(column)
    return field is not None and ("str" in str(field.annotation) or "Literal" in str(field.annotation))


def _split(where: str, value: Any) -> list[Any]:
    text = str(value).strip()
    if text.startswith("["):
        listed = _json(where, text)
        return listed if isinstance(listed, list) else [listed]
    return [part for part in re.split(r"[\s;|]+", text) if part]


def _number(where: str, value: Any) -> float | int:
    """Read a number as people write it: 12,914.9 and 0:09:35 and 3.5x too."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UserError(f"{where}: {_shown(value)} is no number.")
    if isinstance(value, str):
        value = _from_text(where, value.strip())
    if isinstance(value, int):
        return value if abs(value) <= LARGEST else math.inf
    return int(value) if value.is_integer() else value


def _from_text(where: str, text: str) -> float:
    clock = re.fullmatch(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)", text)
    if clock:
        return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?x?", text, re.ASCII):
        raise UserError(f"{where}: {_shown(text)} is no number. Write 1234.5, or leave it empty where it is not known.")
    return float(text.removesuffix("x"))


def _fault(where: str, error: ValidationError, came_from: Mapping[str, str]) -> str:
    """Put the first fault into words, under the file's own name of the column."""
    fault = error.errors(include_url=False, include_context=False)[0]
    column = str(fault["loc"][0])
    ours = f" ({column})" if came_from.get(column, column) != column else ""
    name = _shown(came_from.get(column, column))
    message = fault["msg"].replace("Input should be", "it must be")
    return f"{where}, column {name}{ours}: {message}; it is {_shown(fault['input'])}."


def _shown(value: Any) -> str:
    """Write what was found; an integer of thousands of digits cannot even be printed."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "…"
