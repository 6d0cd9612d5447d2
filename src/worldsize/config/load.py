"""Load a config: defaults <- preset <- file <- overrides, with the origin of every value.

load(...)      the layers put together and each value checked on its own
rules.check    what needs two values or the world size (rules.py)
resolve(...)   every value that follows from others filled in, once world size and tokenizer are known
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from worldsize.config import messages, yaml_tree
from worldsize.config.schema import Config, ModelConfig
from worldsize.errors import UserError, unknown
from worldsize.models.hf_as_ours import as_built
from worldsize.parallel.layout import batches_for, layout_for, strategy_name
from worldsize.records import Origin

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Loaded:
    """A config and where each of its values came from (dotted key → origin, one for every key of the tree)."""

    config: Config
    origins: dict[str, Origin]


@dataclass(frozen=True)
class _Given:
    """A value that some layer gives. `source` is what the origin says, `where` what an error says."""

    value: Any
    source: str
    where: str


def load(path: Path | None, overrides: Sequence[str] = (), preset: str | None = None) -> Loaded:
    """Return the config that the layers make; later layers win.

    Raises UserError that lists every unknown key and every illegal value, each with its file and line or override.
    """
    problems: list[str] = []
    given: dict[str, _Given] = {}
    if preset is not None:
        given |= _from_tree(yaml_tree.read(preset_path(preset)), f"preset {preset}", problems)
    if path is not None:
        given |= _from_tree(_read_file(path), str(path), problems)
    for override in overrides:
        given |= _from_override(override, problems)
    tree: dict[str, dict[str, Any]] = {}
    for key, item in given.items():
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = item.value
    config = _validate(tree, {key: item.where for key, item in given.items()}, "config", problems)
    sources = {key: item.source for key, item in given.items()}
    return Loaded(
        config, {key: Origin(value=value, source=sources.get(key, "default")) for key, value in leaves(config)}
    )


def from_dict(tree: Mapping[str, Any], name: str = "saved config") -> Config:
    """Return the config of a saved tree; `name` is what errors call it. Raises UserError."""
    return _validate(dict(tree), {}, name, [])


def leaves(config: Config) -> list[tuple[str, Any]]:
    """Return (dotted key, value) for every key, in the order of the tree."""
    return [(key, getattr(getattr(config, key.split(".")[0]), key.split(".")[1])) for key in messages.all_keys()]


def _validate(tree: dict[str, Any], where: Mapping[str, str], name: str, problems: list[str]) -> Config:
    config = None
    try:
        config = Config.model_validate(tree, strict=True)
    except ValidationError as error:
        problems = problems + [messages.invalid(finding, where, name) for finding in error.errors()]
    if config is None or problems:
        raise messages.join(problems)
    return config


def _read_file(path: Path) -> Any:
    if not path.suffix and str(path) in presets() and not path.exists():
        raise UserError(f"there is no config file {str(path)!r}, but a preset of that name: type --preset {path}.")
    return yaml_tree.read(path)


def _from_tree(tree: Any, name: str, problems: list[str]) -> dict[str, _Given]:
    """Flatten what a file holds to dotted keys. What is not in the schema goes to `problems`."""
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(
            f"{name}: a config is made of sections with keys, such as\n  model:\n    d_model: 256\n"
            f"but this is {messages.show(yaml_tree.plain(tree))}."
        )
    origin = name if name.startswith("preset ") else f"file {name}"
    given: dict[str, _Given] = {}
    for section, entry in tree.items():
        where = f"{name} line {entry.line}"
        if section not in messages.sections():
            problems.append(messages.unknown_key(section, where))
        elif isinstance(entry.value, dict):
            for key, leaf in entry.value.items():
                where = f"{name} line {leaf.line}"
                source = origin if name.startswith("preset ") else f"{origin}:{leaf.line}"
                _add(given, f"{section}.{key}", _Given(yaml_tree.plain(leaf.value), source, where), problems)
        elif entry.value is not None:
            problems.append(messages.not_a_section(section, entry.value, where))
    return given


def _from_override(override: str, problems: list[str]) -> dict[str, _Given]:
    key, equals, text = override.partition("=")
    key = key.strip()
    where = f"override {override!r}"
    if not equals or not key:
        raise UserError(
            f"{where}: an override is a dotted key, '=' and a value, such as model.d_model=256. "
            "A config file comes first, before every override."
        )
    value = yaml_tree.plain(yaml_tree.parse(text, where))
    given: dict[str, _Given] = {}
    if key in messages.sections():
        problems.append(messages.not_a_section(key, value, where))
    else:
        _add(given, key, _Given(value, "override", where), problems)
    return given


def _add(given: dict[str, _Given], key: str, item: _Given, problems: list[str]) -> None:
    if key in messages.all_keys():
        given[key] = item
    else:
        problems.append(messages.unknown_key(key, item.where))


@cache
def presets() -> dict[str, str]:
    """Return preset name → what it is for: the comment's first line in its file."""
    files = sorted(PRESETS.glob("*.yaml"))
    return {file.stem: file.read_text("utf-8").splitlines()[0].removeprefix("# ") for file in files}


def preset_path(name: str) -> Path:
    """Return a preset's file. Raises UserError when there is none of that name."""
    if name not in presets():
        raise unknown("preset", name, presets())
    return PRESETS / f"{name}.yaml"


def resolve(loaded: Loaded, world_size: int, vocab_size: int | None, num_classes: int | None = None) -> Loaded:
    """Fill in every unset value that follows from others, with origin 'derived'.

    `vocab_size` is the tokenizer's and `num_classes` the data's; None, before the data was read, leaves the model's as
    they are.
    `device.kind` stays 'auto': only the worker knows. Raises UserError when the model's vocabulary is smaller than the
    tokenizer's, or when degrees and batches do not divide (`rules.check` says that together with all other problems).
    """
    config = as_built(loaded.config, vocab_size)
    layout = layout_for(config.parallel, world_size)
    derived: dict[str, Any] = {
        **{f"model.{name}": value for name, value in config.model.model_dump().items()},
        "model.num_kv_heads": config.model.num_kv_heads or config.model.num_heads,
        "model.d_ff": config.model.d_ff or default_d_ff(config.model),
        "model.vocab_size": _vocab_size(config.model, vocab_size),
        "model.kind": model_kind(config),
        "model.num_classes": _num_classes(config.model.num_classes, num_classes),
        "train.micro_batch": batches_for(config.train, layout).micro_batch,
        **{f"parallel.{axis}": degree for axis, degree in layout.as_dict().items()},
        "parallel.strategy": strategy_name(config.parallel, world_size),
    }
    changed = {key: value for key, value in derived.items() if value != loaded.origins[key].value}
    tree = loaded.config.model_dump()
    for key, value in changed.items():
        section, name = key.split(".")
        tree[section][name] = value
    origins = {key: Origin(value=value, source="derived") for key, value in changed.items()}
    return Loaded(from_dict(tree), loaded.origins | origins)


def default_d_ff(model: ModelConfig) -> int:
    """Return the feed-forward width that follows from d_model: 4 × it, or 8/3 × it rounded up to 64 for swiglu.

    A gated layer has three matrices where a plain one has two, so 2/3 of the width costs as much.
    """
    if model.activation != "swiglu":
        return 4 * model.d_model
    return -(-8 * model.d_model // (3 * 64)) * 64


def model_kind(config: Config) -> Literal["decoder", "encoder"]:
    """Return the kind of model that the task needs, where the config names none."""
    return config.model.kind or ("encoder" if config.data.task == "classification" else "decoder")


def _num_classes(given: int | None, data: int | None) -> int | None:
    if given is None or data is None:
        return given or data
    if given < data:
        raise UserError(
            f"model.num_classes={given}, but the data has {data} classes. Leave model.num_classes unset, or set it to "
            f"at least {data}."
        )
    return given


def _vocab_size(model: ModelConfig, tokenizer: int | None) -> int | None:
    given = model.vocab_size
    if tokenizer is None:
        return given
    if given is None and model.hf is not None:
        return tokenizer  # its rows are what they are
    if given is None:
        return -(-tokenizer // 64) * 64
    if given < tokenizer:
        raise UserError(
            f"model.vocab_size={given} is smaller than the tokenizer's {tokenizer} tokens. Leave model.vocab_size "
            f"unset, or set it to at least {tokenizer}."
        )
    return given
