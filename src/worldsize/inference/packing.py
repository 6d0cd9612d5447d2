"""A model's weights under a method: matrices packed, all else in fp32; to and from the tensors of a file.

Names are those of models/decoder.py and models/encoder.py. In a file the tensor `blocks.0.attention.qkv.weight` becomes
one for each buffer of its matrix, such as `blocks.0.attention.qkv.weight.scale_O`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from worldsize.config.schema import ModelConfig
from worldsize.errors import UserError
from worldsize.inference.matrix import Fp32, Matrix
from worldsize.inference.methods import Method
from worldsize.models.cost import parameter_shapes

EMBEDDING, HEAD, POSITIONS = "token_embedding.weight", "head.weight", "position_embedding.weight"

Packed = dict[str, Tensor | Matrix]
"""By name. A head that is one matrix with the embedding has no entry."""


def matrices_of(model: ModelConfig, method: Method) -> dict[str, type[Matrix]]:
    """Return how each matrix of a model is kept under a method, in the order of its weights."""
    found: dict[str, type[Matrix]] = {}
    for name, shape in parameter_shapes(model).items():
        if name == EMBEDDING:
            found[name] = method.ends if method.ends.embeds else Fp32
        elif len(shape) == 2 and name != POSITIONS:
            found[name] = method.ends if name == HEAD else method.blocks
    if model.kind != "encoder" and model.tied_head and not method.ends.embeds:
        found[HEAD] = method.ends
    return found


def pack(weights: Mapping[str, Tensor], model: ModelConfig, method: Method) -> Packed:
    """Return a model's fp32 weights as a method keeps them. Tensors are copied."""
    packed: Packed = {name: tensor.detach().float().clone() for name, tensor in weights.items()}
    for name, matrix in matrices_of(model, method).items():
        packed[name] = matrix.pack(weights[name] if name in weights else weights[EMBEDDING])
    return packed


def ready(packed: Packed) -> Packed:
    """Return weights as this machine multiplies them best."""
    return {name: part.ready() if isinstance(part, Matrix) else part for name, part in packed.items()}


def tensors_of(packed: Packed) -> dict[str, Tensor]:
    """Return what a file holds."""
    tensors: dict[str, Tensor] = {}
    for name, part in packed.items():
        if isinstance(part, Matrix):
            tensors |= {f"{name}.{buffer}": tensor.contiguous() for buffer, tensor in part.named_buffers()}
        else:
            tensors[name] = part
    return tensors


def packed_from(tensors: Mapping[str, Tensor], model: ModelConfig, method: Method, where: str) -> Packed:
    """Return what `tensors_of` wrote. Raises UserError that names what is missing, unexpected or misshapen."""
    packed = _empty(model, method)
    expected = tensors_of(packed)
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} was not expected" for name in tensors if name not in expected]
    problems += [
        f"{name} is {_looks(tensors[name])}, not {_looks(like)}"
        for name, like in expected.items()
        if name in tensors and _looks(tensors[name]) != _looks(like)
    ]
    if problems:
        raise UserError(f"{where} does not hold the {method.name} weights that it describes: {'; '.join(problems)}.")
    for name, part in packed.items():
        if isinstance(part, Matrix):
            for buffer, _ in list(part.named_buffers()):
                setattr(part, buffer, tensors[f"{name}.{buffer}"])
        else:
            packed[name] = tensors[name]
    return packed


def _empty(model: ModelConfig, method: Method) -> Packed:
    shapes = parameter_shapes(model)
    packed: Packed = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    for name, matrix in matrices_of(model, method).items():
        num_outputs, num_inputs = shapes[name] if name in shapes else shapes[EMBEDDING]
        packed[name] = matrix.empty((num_outputs, num_inputs))
    return packed


def _looks(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def share_quantized(model: ModelConfig, method: Method) -> float:
    """Return the share of a model's parameters that a method does not leave in fp32."""
    shapes = parameter_shapes(model)
    changed = {name for name, matrix in matrices_of(model, method).items() if matrix is not Fp32 and name in shapes}
    return sum(math.prod(shapes[name]) for name in changed) / sum(map(math.prod, shapes.values()))
