"""A model of a named shape with random weights: for speed, which does not depend on what the weights are."""

from __future__ import annotations

from pathlib import Path

from worldsize.config.load import load, resolve
from worldsize.config.schema import ModelConfig
from worldsize.data.tokenizer import ByteTokenizer
from worldsize.errors import unknown
from worldsize.inference.open_model import OpenedModel
from worldsize.models.build import build

SHAPES = {
    "gpt2": "GPT-2 as published: 12 layers, width 768, vocabulary 50,257",
    "small": "6 layers, width 384, vocabulary 8,192",
    "tiny": "2 layers, width 64, vocabulary 256",
}
"""What `--shape` takes."""

OVERRIDES = {
    "gpt2": {"num_layers": 12, "d_model": 768, "num_heads": 12, "vocab_size": 50257, "context_length": 1024},
    "small": {"num_layers": 6, "d_model": 384, "num_heads": 6, "vocab_size": 8192, "context_length": 1024},
    "tiny": {"num_layers": 2, "d_model": 64, "num_heads": 2, "vocab_size": ByteTokenizer.vocab_size},
}


def shape_named(name: str) -> ModelConfig:
    """Return the model config of a shape. Raises UserError when there is none of that name."""
    if name not in OVERRIDES:
        raise unknown("shape", name, OVERRIDES)
    overrides = [f"model.{key}={value}" for key, value in OVERRIDES[name].items()]
    return resolve(load(None, [*overrides, "device.kind=cpu"]), 1, None).config.model


def random_model(name: str, seed: int = 0) -> OpenedModel:
    """Return a model of a shape with the weights that training would begin with. Raises UserError as `shape_named`."""
    model = shape_named(name)
    module = build(model, seed, "cpu")
    weights = {key: value.detach() for key, value in module.state_dict().items()}
    return OpenedModel(Path(f"random-{name}"), "shape", model, weights, None, None, None)
