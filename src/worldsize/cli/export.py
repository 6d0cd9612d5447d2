"""`worldsize export`: a model written out for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from worldsize.cli.arguments import JsonOption, ModelArgument, WhichOption


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new folder.")],
    format_: Annotated[str, typer.Option("--format", help="huggingface or safetensors.")] = "huggingface",
    which: WhichOption = "newest",
    json_: JsonOption = False,
) -> None:
    """Write a model out for other programs.

    \b
    worldsize export out/run --out gpt                         a folder that transformers and llama.cpp's converter open
    worldsize export out/run --which best --format safetensors --out gpt    our own names of weights

    A run must have had checkpoints: set checkpoint.every_steps. The weights are whole, whatever layout trained them.
    The tokenizer travels along. Nothing is overwritten.
    """
    from worldsize.inference.export import export as write
    from worldsize.inference.open_model import open_model
    from worldsize.models.cost import num_parameters

    opened = open_model(model, which)
    files = write(opened, out, format_)
    size_bytes = sum(file.stat().st_size for file in files)
    if json_:
        twin = {
            "model": str(opened.path),
            "kind": opened.kind,
            "step": opened.step,
            "format": format_,
            "out": str(out),
            "num_parameters": num_parameters(opened.model),
            "size_bytes": size_bytes,
            "files_bytes": {file.name: file.stat().st_size for file in files},
        }
        print(json.dumps(twin, indent=1))
        return
    for file in files:
        print(f"{file.stat().st_size:>14,} bytes  {file.name}")
    print(f"{size_bytes:>14,} bytes  {out} ({num_parameters(opened.model):,} parameters, from {opened.path})")
