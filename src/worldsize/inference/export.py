"""A model written out for other programs: a Hugging Face folder, or ours of safetensors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from worldsize.errors import UserError, unknown
from worldsize.inference.open_model import HF_CONFIG, OUR_CONFIG, OpenedModel
from worldsize.inference.tensor_files import write_tensors
from worldsize.inference.tokenizer_files import copy_tokenizer, write_tokenizer
from worldsize.models.hf_config import family_for, hf_from_model
from worldsize.models.hf_weights import weights_to_hf


def export(opened: OpenedModel, out: Path, format_: str) -> list[Path]:
    """Write a model into the new folder `out`, whole or not at all; return its files.

    Raises UserError for an unknown format, a folder that is there already, or a model that is quantized or that the
    format cannot hold.
    """
    if format_ not in FORMATS:
        raise unknown("format", format_, FORMATS)
    opened.needs_weights()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already. Nothing is overwritten: give another --out, or move it away.")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        FORMATS[format_](opened, temporary)
        add_tokenizer(opened, temporary)
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}. Give another --out.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(out.iterdir())


def _hugging_face(opened: OpenedModel, folder: Path) -> None:
    """config.json, weights by transformers' names, generation_config.json."""
    end = opened.tokenizer.end_of_text if opened.tokenizer else None
    _write_json(hf_from_model(opened.model, end), folder / HF_CONFIG)
    _write_json({"bos_token_id": end, "eos_token_id": end}, folder / "generation_config.json")
    write_tensors(weights_to_hf(opened.weights, opened.model, family_for(opened.model)), folder)


def _safetensors(opened: OpenedModel, folder: Path) -> None:
    """worldsize.json (the config), weights by our names."""
    _write_json({"config": config_tree(opened)}, folder / OUR_CONFIG)
    write_tensors({name: tensor.contiguous() for name, tensor in opened.weights.items()}, folder)


FORMATS: dict[str, Callable[[OpenedModel, Path], None]] = {"huggingface": _hugging_face, "safetensors": _safetensors}


def config_tree(opened: OpenedModel) -> dict[str, object]:
    """Return the whole config of the run that made the model, or of its shape alone."""
    if opened.config is not None:
        return opened.config.model_dump()
    return {"model": opened.model.model_dump()}


def add_tokenizer(opened: OpenedModel, folder: Path) -> None:
    """Write a model's tokenizer into a folder, where it has one."""
    if opened.tokenizer_folder is not None and copy_tokenizer(opened.tokenizer_folder, folder):
        return
    if opened.tokenizer is not None:
        write_tokenizer(opened.tokenizer, folder, opened.model.context_length)


def _write_json(tree: object, path: Path) -> None:
    path.write_text(json.dumps(tree, indent=1) + "\n", "utf-8")
