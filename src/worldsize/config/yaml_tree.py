"""Read YAML and remember on which line each key stands. Knows nothing of the config's keys.

Scalars follow YAML 1.2's core schema, so `1e-3` is a number and `no`, `on` and `010` are text: PyYAML's own rules
are those of YAML 1.1, under which a learning rate of `1e-3` would arrive as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from worldsize.errors import UserError

MAX_BYTES = 1 << 20
"""A larger file is not a config: most likely the corpus was given in its place."""

_TAG = "tag:yaml.org,2002:"
_MAX_INT = 2**63


@dataclass(frozen=True)
class Entry:
    """A value and its line (from 1). The value of a mapping is a dict of entries."""

    value: Any
    line: int


class _Loader(yaml.SafeLoader):
    """The safe loader, without aliases: they could expand a few lines into gigabytes."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as in the base class

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported", mark)
        return super().compose_node(parent, index)


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def _to_int(text: str) -> int:
    value = int(text.lstrip("+"), 0) if text[:2] in ("0x", "0o") else int(text)
    if not -_MAX_INT <= value < _MAX_INT:
        raise ValueError(text)
    return value


def _to_float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": {"true": True, "false": False}.__getitem__,
    "int": _to_int,
    "float": _to_float,
    "str": str,
}


def _scalar(node: yaml.ScalarNode, where: str) -> Any:
    kind = node.tag.removeprefix(_TAG)
    if kind not in _SCALARS:
        raise UserError(f"{where}: the tag {node.tag!r} is not supported. Write the value without a tag.")
    try:
        return _SCALARS[kind](node.value.lower() if kind == "bool" else node.value)
    except (ValueError, KeyError):
        raise UserError(f"{where}: {node.value[:40]!r} is not a number that fits 64 bits.") from None


def _mapping(node: yaml.MappingNode, name: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{name} line {line}: a key must be one word, such as d_model.")
        if key.value in entries:
            raise UserError(
                f"{name} line {line}: {key.value!r} is given twice in the same section; "
                f"the first is on line {entries[key.value].line}. Keep one."
            )
        entries[key.value] = Entry(_convert(value, name), line)
    return entries


def _convert(node: yaml.Node, name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, name)
    if isinstance(node, yaml.SequenceNode):
        return [_convert(item, name) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node, f"{name} line {node.start_mark.line + 1}")


def parse(text: str, name: str) -> Any:
    """Return the one YAML document in `text`; `name` (a file, or an override) is what errors call it.

    Raises UserError, with the line, for anything that is not plain YAML.
    """
    try:
        node = yaml.compose(text, _Loader)
        return None if node is None else _convert(node, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name} line {mark.line + 1}" if mark else name
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{name} line {line}: not valid YAML: it holds a character that is not printable.") from error
    except RecursionError:
        raise UserError(f"{name}: nested too deeply. A config has sections and keys, nothing below.") from None


def read(path: Path) -> Any:
    """Return the YAML document in a file. Raises UserError when it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise UserError(f"{path} is a folder. A config is a YAML file, such as {path / 'config.yaml'}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read the config {str(path)!r}: {reason}.") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{path} is larger than 1 MiB: that is not a config. A corpus goes into data.source.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line}: not UTF-8 text. A config is YAML in UTF-8.") from None
    return parse(text, str(path))


def plain(value: Any) -> Any:
    """Return `value` without the lines."""
    if isinstance(value, dict):
        return {key: plain(entry.value) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
