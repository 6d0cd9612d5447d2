"""What the user reads when a config is wrong: which key, where it stands, what is allowed, what was meant."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

from pydantic_core import ErrorDetails

from worldsize.config.around import ONE_LINE, ONE_WORD
from worldsize.config.schema import Config
from worldsize.config.section import Section
from worldsize.errors import UserError, nearest

OTHER_NAMES = {
    "batch_size": "train.global_batch",
    "block_size": "model.context_length",
    "seq_len": "model.context_length",
    "n_layer": "model.num_layers",
    "num_hidden_layers": "model.num_layers",
    "n_head": "model.num_heads",
    "num_attention_heads": "model.num_heads",
    "num_key_value_heads": "model.num_kv_heads",
    "n_embd": "model.d_model",
    "hidden_size": "model.d_model",
    "intermediate_size": "model.d_ff",
    "lr": "optimizer.learning_rate",
    "max_steps": "train.steps",
    "max_iters": "train.steps",
    "dtype": "train.precision",
    "num_gpus": "parallel.dp",
}
"""What other training programs call the same thing."""


@cache
def sections() -> dict[str, type[Section]]:
    """Return section name → class, in the order of the tree."""
    return {name: cast(type[Section], field.annotation) for name, field in Config.model_fields.items()}


@cache
def all_keys() -> tuple[str, ...]:
    """Return every dotted key, in the order of the tree."""
    return tuple(f"{name}.{key}" for name, section in sections().items() for key in section.model_fields)


def join(problems: Sequence[str]) -> UserError:
    """Return one error for all the problems: a single one as it is, several as a list."""
    if len(problems) == 1:
        return UserError(problems[0])
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return UserError(f"{len(problems)} problems in the configuration:\n{lines}")


def show(value: Any) -> str:
    """Return a value as the user would write it, shortened where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return short.repr(value)


def suggestion(key: str) -> str | None:
    """Return the valid dotted key (or section) nearest to an unknown one, or None when none is close."""
    section, _, name = key.rpartition(".")
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    same_name = [valid for valid in all_keys() if valid.split(".")[1] == name]
    if same_name:
        return next((valid for valid in same_name if valid.split(".")[0] == section), same_name[0])
    if not section:
        section_match = nearest(name, sections())
        return section_match or _by_name(name)
    if section in sections():
        match = nearest(name, sections()[section].model_fields)
        return f"{section}.{match}" if match else _by_name(name)
    return nearest(key, all_keys())


def _by_name(name: str) -> str | None:
    match = nearest(name, [key.split(".")[1] for key in all_keys()])
    return next(key for key in all_keys() if key.split(".")[1] == match) if match else None


def unknown_key(key: str, where: str) -> str:
    """Return the message for a key that the tree does not have. `where`: file and line, or the override."""
    section = key.split(".")[0]
    close = suggestion(key)
    if close:
        return f"{where}: unknown key {key!r}. Did you mean {close}?"
    if "." in key and section in sections():
        return f"{where}: unknown key {key!r}. Keys of {section}: {', '.join(sections()[section].model_fields)}."
    return f"{where}: unknown key {key!r}. Sections: {', '.join(sections())}."


def not_a_section(name: str, value: Any, where: str) -> str:
    """Return the message for a section that was given a value."""
    first = next(iter(sections()[name].model_fields))
    return f"{where}: {name} is a section with keys, such as {name}.{first}; it cannot be {show(value)}."


@cache
def _schema() -> dict[str, Any]:
    return Config.model_json_schema()


def allowed(key: str) -> str:
    """Return what a dotted key may hold, in words: 'a whole number, at least 1, or null'."""
    section, name = key.split(".")
    schema = _schema()["$defs"][sections()[section].__name__]["properties"][name]
    options = schema.get("anyOf", [schema])
    words = [_type_in_words(option) for option in options if option["type"] != "null"]
    return ", ".join(words) + (", or null" if len(words) < len(options) else "")


def _type_in_words(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(repr(choice) for choice in schema["enum"])
    if schema["type"] == "array":
        return f"a list, each {_type_in_words(schema['items'])}"
    names = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text",
             "object": "keys with values"}  # fmt: skip
    bounds = [
        f"{word} {schema[bound]:.12g}" if schema[bound] < 1e6 else f"{word} {schema[bound]}"
        for bound, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if bound in schema
    ]
    return ", ".join([names[schema["type"]], " and ".join(bounds)] if bounds else [names[schema["type"]]])


def invalid(error: ErrorDetails, where: Mapping[str, str], default_where: str) -> str:
    """Return the message for one finding of the validation. `where`: dotted key → file and line, or the override."""
    key = ".".join(str(part) for part in error["loc"][:2])
    place = where.get(key, default_where)
    if error["type"] == "extra_forbidden":
        return unknown_key(key, place)
    if key in sections():
        return not_a_section(key, error["input"], place)
    value = error["input"]
    rule = allowed(key)
    if isinstance(value, float) and not math.isfinite(value):
        rule = rule.replace("a number", "a finite number", 1)
    return f"{place}: {key} is {show(value)}, but must be {rule}.{_hint(error, value)}"


def _hint(error: ErrorDetails, value: Any) -> str:
    if error["type"] == "literal_error" and isinstance(value, str):
        choices = error["ctx"]["expected"].replace(" or ", ", ").split(", ")
        close = nearest(value, [choice.strip("'") for choice in choices])
        return f" Did you mean {close!r}?" if close else ""
    if error["type"] == "string_type" and isinstance(value, (int, float)):
        return " Put it in quotes to make it text."
    if error["type"] == "int_type" and isinstance(value, float) and value.is_integer():
        return f" Write {int(value)}."
    if error["type"] == "string_pattern_mismatch":
        form = error["ctx"]["pattern"]
        words = {ONE_WORD: "one word without quotes", ONE_LINE: "one line"}.get(form, f"text of the form {form}")
        return f" It takes {words}."
    if error["type"] == "bool_type" and value in ("yes", "on", "no", "off"):
        return f" Write {show(value in ('yes', 'on'))}."
    return ""
