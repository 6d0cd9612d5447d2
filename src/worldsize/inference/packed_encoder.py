"""A classifier whose matrices are packed: models/encoder.py with its linear layers and its embedding replaced."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldsize.config.schema import ModelConfig
from worldsize.inference.matrix import Matrix
from worldsize.inference.network import PackedLinear
from worldsize.inference.open_model import OpenedModel
from worldsize.inference.packing import EMBEDDING, Packed, ready
from worldsize.models.encoder import Encoder


class PackedEmbedding(nn.Module):
    """Rows of a packed matrix."""

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, ids: Tensor) -> Tensor:
        return self.matrix.embed(ids)


def classifier(opened: OpenedModel, method_name: str | None = None) -> Encoder:
    """Return an opened model's encoder under a method; None is what it was quantized with, or fp32."""
    return packed_encoder(opened.model, opened.packed_as(method_name))


def packed_encoder(model: ModelConfig, packed: Packed) -> Encoder:
    """Return the classifier with these weights, in evaluation mode."""
    with torch.device("meta"):
        encoder = Encoder(model)
    weights = ready(packed)
    for name, part in weights.items():
        module_name, _, parameter = name.rpartition(".")
        if isinstance(part, Matrix):
            embedding = name == EMBEDDING
            encoder.set_submodule(
                module_name, PackedEmbedding(part) if embedding else PackedLinear(weights, module_name)
            )
        elif not isinstance(encoder.get_submodule(module_name), PackedLinear):  # which took its bias along
            setattr(encoder.get_submodule(module_name), parameter, nn.Parameter(part, requires_grad=False))
    left = [name for name, parameter in encoder.named_parameters() if parameter.is_meta]
    assert not left, left
    return encoder.eval()
