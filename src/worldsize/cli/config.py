"""`worldsize config`: what a run would be, before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from worldsize.cli import note
from worldsize.cli.arguments import ConfigArguments, JsonOption, NprocOption, PresetOption, check_nproc, split_config
from worldsize.config import rules, write
from worldsize.config.cautions import cautions
from worldsize.config.load import Loaded, load, presets, resolve
from worldsize.config.schema import Config
from worldsize.errors import UserError


def config(
    arguments: ConfigArguments = None,
    preset: PresetOption = None,
    nproc: NprocOption = 1,
    print_: Annotated[bool, typer.Option("--print", help="Print the config (the default).")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, for editors.")] = False,
    list_presets: Annotated[bool, typer.Option("--presets", help="List the presets.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what a run would be, and where each value came from.

    Layers: defaults, then the preset, then the file, then overrides; later ones win. Values that follow from
    others are worked out for --nproc devices and stand as comments. Every rule is checked, just as before a run.

    \b
    worldsize config --preset tiny                     a preset, with every value
    worldsize config run.yaml                          a file of your own
    worldsize config run.yaml train.global_batch=64 --nproc 4
    worldsize config --preset tiny > run.yaml          a file to start from
    worldsize config --schema > worldsize.schema.json  completion and checks in an editor
    worldsize config --presets                         which presets there are
    """
    if print_ + schema + list_presets > 1:
        raise UserError("choose one of --print, --schema and --presets.")
    if schema:
        print(json.dumps(json_schema(), indent=2))
    elif list_presets:
        _print_presets(json_)
    else:
        check_nproc(nproc)
        path, overrides = split_config(arguments)
        loaded = load(path, overrides, preset)
        rules.check(loaded.config, nproc)
        _print_config(resolve(loaded, nproc, vocab_size=None), nproc, json_)


def _print_config(loaded: Loaded, world_size: int, as_json: bool) -> None:
    cautioned = cautions(loaded.config)
    if as_json:
        tree = {"world_size": world_size, **write.to_json(loaded), "cautions": cautioned}
        print(json.dumps(tree, indent=2))
        return
    print(f"# {_title(world_size)}; after each value, where it came from.")
    if loaded.config.model.vocab_size is None:
        print("# model.vocab_size follows from the tokenizer when the corpus is read.")
    print(write.to_yaml(loaded), end="")
    for caution in cautioned:
        note(f"note: {caution}")


def _title(world_size: int) -> str:
    return f"resolved for {world_size} device{'s' if world_size > 1 else ''}"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config file: every key with its type, bounds, default and description."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    return schema | {"title": "worldsize config"}


@dataclass(frozen=True)
class PresetSummary:
    """One line of `worldsize config --presets`."""

    name: str
    purpose: str
    num_parameters: int


def preset_summaries() -> list[PresetSummary]:
    """Return all presets, smallest model first. A model over bytes is counted with 256 tokens."""
    from worldsize.models.cost import num_parameters

    summaries = []
    for name, purpose in presets().items():
        loaded = load(None, preset=name)
        model = resolve(loaded, 1, vocab_size=loaded.config.model.vocab_size or 256).config.model
        summaries.append(PresetSummary(name, purpose, num_parameters(model)))
    return sorted(summaries, key=lambda summary: summary.num_parameters)


def _print_presets(as_json: bool) -> None:
    summaries = preset_summaries()
    if as_json:
        print(json.dumps({"presets": [asdict(summary) for summary in summaries]}, indent=2))
        return
    for summary in summaries:
        print(f"{summary.name:<12} {summary.num_parameters:>13,} parameters  {summary.purpose}")
