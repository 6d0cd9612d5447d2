"""MODEL, however it is given: a run's folder, a checkpoint, an exported folder, or a Hugging Face folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsize.checkpoint_folder import MANIFEST, Checkpoint, read
from worldsize.config.load import from_dict
from worldsize.config.schema import Config, ModelConfig
from worldsize.data.cache import cache_folder
from worldsize.data.corpus import open_corpus
from worldsize.data.row_file import RowFile
from worldsize.data.task import prepare_task
from worldsize.data.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer, tokenizer_in
from worldsize.errors import UserError
from worldsize.inference.checkpoints import checkpoint_of, full_weights
from worldsize.inference.methods import method
from worldsize.inference.packing import Packed, pack, packed_from
from worldsize.inference.tensor_files import INDEX, WHOLE, read_tensors
from worldsize.models.cost import is_hugging_face, parameter_shapes
from worldsize.models.decoder import Decoder
from worldsize.models.hf_config import family_of, model_from_hf
from worldsize.models.hf_weights import weights_from_hf
from worldsize.run_folder import RUN

HF_CONFIG, OUR_CONFIG = "config.json", "worldsize.json"
QUANTIZED = "quantized"
"""The key of worldsize.json that names a method; its weights are then packed."""

ALLOWED = (
    "a run's folder (its newest checkpoint), a checkpoint, a folder that `worldsize export` or `worldsize quantize` "
    "wrote, or a Hugging Face folder with config.json and safetensors"
)


@dataclass(frozen=True)
class OpenedModel:
    """A model's weights with all that is needed to use them."""

    path: Path
    """The folder that the weights were read from."""
    kind: str
    """'checkpoint', 'export' or 'hugging face'."""
    model: ModelConfig
    weights: dict[str, Tensor]
    """By the names of models/decoder.py, fp32, on the CPU; complete and of the right shapes."""
    tokenizer: Tokenizer | None
    tokenizer_folder: Path | None
    """Where the tokenizer's own files lie, when there are any."""
    config: Config | None
    """The config of the run that made it, where that is known."""
    step: int | None = None
    """Steps that a checkpoint had been trained for."""
    quantized: str | None = None
    """The method that `worldsize quantize` used; `packed` then holds the weights, and `weights` none."""
    packed: Packed | None = None

    def decoder(self) -> nn.Module:
        """Return the model as a module with these weights, in evaluation mode. Raises UserError when quantized."""
        self.needs_weights()
        with torch.device("meta"):
            decoder = Decoder(self.model)
        decoder.load_state_dict(self.weights, strict=True, assign=True)
        return decoder.eval()

    def needs_weights(self) -> None:
        """Raise UserError unless the weights are there as they were trained."""
        if self.quantized is not None:
            raise UserError(f"{self.path} is quantized ({self.quantized}). Give the model that it was made from.")

    def method_or(self, given: str | None) -> str:
        """Return the method to run it with. Raises UserError for another than it was quantized with."""
        if self.quantized is not None and given not in (None, self.quantized):
            raise UserError(
                f"{self.path} is quantized with {self.quantized} and cannot be run as {given}. Leave --method out, or "
                "give the model that it was made from."
            )
        return self.quantized or given or "fp32"

    def packed_as(self, given: str | None) -> Packed:
        """Return the weights under a method; None is what it was quantized with, or fp32.

        Raises UserError for an unknown method, or another than it was quantized with.
        """
        name = self.method_or(given)
        return self.packed or pack(self.weights, self.model, method(name))

    def needs_tokenizer(self) -> Tokenizer:
        """Return the tokenizer. Raises UserError when the model came without one."""
        if self.tokenizer is None:
            raise UserError(f"{self.path} holds no tokenizer. Put its tokenizer.json into the folder.")
        return self.tokenizer


def open_model(given: str | Path, which: str = "newest") -> OpenedModel:
    """Return the model that a person names; `which` of a run's checkpoints, newest or best.

    Raises UserError when there is none, or it is not whole.
    """
    path = Path(given).expanduser()
    if not path.exists():
        raise UserError(f"there is no model {str(given)!r}. MODEL is {ALLOWED}.")
    if path.is_dir() and (path / RUN).is_file():
        return _from_checkpoint(checkpoint_of(path, which))
    if path.is_dir() and (path / MANIFEST).is_file():
        return _from_checkpoint(read(path))
    if path.is_dir() and (path / OUR_CONFIG).is_file():
        return _from_export(path)
    if path.is_dir() and (path / HF_CONFIG).is_file():
        return _from_hugging_face(path)
    if path.is_dir() and ((path / WHOLE).is_file() or (path / INDEX).is_file()):
        raise UserError(f"{path} holds weights, but neither {HF_CONFIG} nor {OUR_CONFIG} says what model they are.")
    raise UserError(f"{path} is no model. MODEL is {ALLOWED}.")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file that holds an object. Raises UserError when it does not."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no JSON object.")
    return tree


def _from_hugging_face(folder: Path) -> OpenedModel:
    config = read_json(folder / HF_CONFIG)
    where = str(folder / HF_CONFIG)
    model = model_from_hf(config, where)
    weights = weights_from_hf(read_tensors(folder), model, family_of(config, where), str(folder))
    return OpenedModel(folder, "hugging face", model, weights, tokenizer_in(folder), folder, None)


def _from_export(folder: Path) -> OpenedModel:
    described = read_json(folder / OUR_CONFIG)
    config = from_dict(described["config"], str(folder / OUR_CONFIG))
    if QUANTIZED in described:
        found = method(described[QUANTIZED])
        packed = packed_from(read_tensors(folder), config.model, found, str(folder))
        return OpenedModel(
            folder, "export", config.model, {}, tokenizer_in(folder), folder, config, None, found.name, packed
        )
    weights = strict(read_tensors(folder), config.model, str(folder))
    return OpenedModel(folder, "export", config.model, weights, tokenizer_in(folder), folder, config)


def _from_checkpoint(checkpoint: Checkpoint) -> OpenedModel:
    config = from_dict(checkpoint.manifest.config, str(checkpoint.path / MANIFEST))
    refuse_foreign(config.model, checkpoint.path)
    weights = strict(full_weights(checkpoint), config.model, str(checkpoint.path))
    source = Path(config.data.tokenizer).expanduser()
    folder = source if source.is_dir() else None
    tokenizer = _run_tokenizer(config)
    return OpenedModel(checkpoint.path, "checkpoint", config.model, weights, tokenizer, folder, config, checkpoint.step)


def refuse_foreign(model: ModelConfig, path: Path) -> None:
    """Raise UserError for a model that Hugging Face's own code trained: its weights have other names than ours."""
    if is_hugging_face(model):
        raise UserError(
            f"{path} was trained by Hugging Face's own code (model.hf or model.hf_config), which is not run here; its "
            "quality on held-out data is in the run's result.json. Train our decoder or encoder instead "
            "(model.d_model, model.num_layers …)."
        )


def _run_tokenizer(config: Config) -> Tokenizer:
    """Return the tokenizer that a run was trained with, from the cache of tokenized corpora or made once more."""
    data = config.data
    if data.task != "language_modelling":
        rows = prepare_task(data).file
        assert isinstance(rows, RowFile)
        return rows.tokenizer_used()
    if data.tokenizer == "bytes":
        return ByteTokenizer()
    return open_tokenizer(data.tokenizer, open_corpus(data), cache_folder(data.cache_dir))


def strict(tensors: dict[str, Tensor], model: ModelConfig, where: str) -> dict[str, Tensor]:
    """Return weights in fp32, by our names. Raises UserError that names what is missing, unexpected or misshapen."""
    expected = parameter_shapes(model)
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} was not expected" for name in tensors if name not in expected]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        raise UserError(f"{where} does not hold the weights of the model that it describes: {'; '.join(problems)}.")
    return {name: tensors[name].float() for name in expected}
