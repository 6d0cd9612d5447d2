"""Write a config with the origin of every value: YAML for people, a tree for JSON."""

from __future__ import annotations

import re
from typing import Any

import yaml

from worldsize.config import yaml_tree
from worldsize.config.load import Loaded, leaves


def to_yaml(loaded: Loaded) -> str:
    """Return the config as YAML, each value's origin in a comment.

    Derived values stand as comments themselves: a file that fixed the degrees of one world size would be refused at
    another. So `load` reads the text back to the config as it was before `resolve`.
    """
    rows = [(key, _line(key, value, loaded.origins[key].source)) for key, value in leaves(loaded.config)]
    width = min(40, max(len(text) for _, text in rows))
    lines: list[str] = []
    for key, text in rows:
        section = key.split(".")[0]
        if f"{section}:" not in lines:
            lines.append(f"{section}:")
        source = " ".join(loaded.origins[key].source.split())
        lines.append(f"{text:<{width}}  # {source}")
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, source: str) -> str:
    name = key.split(".")[1]
    return f"  {'# ' if source == 'derived' else ''}{name}: {scalar(value)}"


def to_json(loaded: Loaded) -> dict[str, Any]:
    """Return {'config': the tree, 'origins': dotted key → value and source}, ready for json.dumps."""
    return {
        "config": loaded.config.model_dump(mode="json"),
        "origins": {key: origin.model_dump(mode="json") for key, origin in loaded.origins.items()},
    }


def scalar(value: Any) -> str:
    """Return a value as one line of YAML that our reader, and those of YAML 1.1, take back unchanged."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {scalar(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(scalar, value)) + "]"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "." not in text else text  # YAML 1.1 takes 1e-05 for text
    if re.fullmatch(r"[\w./~-][\w./~:-]*", value, re.ASCII) and _reads_as_itself(value):
        return str(value)
    quoted: str = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=10**9)
    return quoted.removesuffix("\n")


def _reads_as_itself(text: str) -> bool:
    try:
        return bool(yaml_tree.parse(text, "value") == text == yaml.safe_load(text))
    except (ValueError, yaml.YAMLError):
        return False
