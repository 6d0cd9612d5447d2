"""Int4 weights: groups of 32 inputs share a scale in half precision, symmetric. Letters as in matrix.py, G groups."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsize.inference import kernels
from worldsize.inference.int8 import BLOCK, in_blocks
from worldsize.inference.matrix import Matrix, compiled_row, written_out
from worldsize.models.linear import linear_without_gradient

GROUP = 32
HALF = GROUP // 2
SMALLEST, LARGEST, OFFSET = -8, 7, 8
STRETCHES = tuple(0.80 + 0.05 * step for step in range(7))
"""Scales that are tried for a group, as parts of the one that its largest weight asks for."""


class Int4(Matrix):
    """The weight in int4, row after row, in PyTorch alone. Inputs stay in fp32.

    A byte holds two values, 8 larger and so unsigned: in its low half input j of the first 16 of a group, in its high
    half input j of the last 16.
    """

    bytes_OGJ: Tensor
    scale_OG: Tensor

    def __init__(self, bytes_OGJ: Tensor, scale_OG: Tensor, num_inputs: int) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.register_buffer("bytes_OGJ", bytes_OGJ)
        self.register_buffer("scale_OG", scale_OG)

    @classmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        num_inputs = weight_OI.shape[1]
        groups_OGI = torch.unflatten(F.pad(weight_OI.detach().float(), (0, -num_inputs % GROUP)), 1, (-1, GROUP))
        values_OGI, scale_OG = to_int4(groups_OGI)
        unsigned = (values_OGI + OFFSET).to(torch.uint8)
        return cls(unsigned[..., :HALF] | unsigned[..., HALF:] << 4, scale_OG, num_inputs)

    @classmethod
    def product_type(cls) -> str:
        """The compiled kernel rounds its inputs to int8; PyTorch alone makes fp32 of the weights again."""
        return "fp32" if kernels.why_not() else "int8"

    def ready(self) -> Matrix:
        return self if kernels.why_not() else Int4Kernel(self)

    def linear(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        if not compiled_row(x):
            return linear_without_gradient(x, self._rows(self.bytes_OGJ, self.scale_OG), bias_O)
        x_GI = F.pad(written_out(x).view(-1), (0, -self.num_inputs % GROUP)).view(-1, GROUP)
        x_GI = written_out(x_GI)
        low, high = halves(self.bytes_OGJ)
        products_OGJ = (low * x_GI[:, :HALF] + high * x_GI[:, HALF:]) * self.scale_OG.unsqueeze(-1).float()
        out_O = products_OGJ.sum((1, 2))
        return (out_O if bias_O is None else out_O + bias_O).view(*x.shape[:-1], -1)

    def embed(self, ids: Tensor) -> Tensor:
        return self._rows(self.bytes_OGJ[ids], self.scale_OG[ids])

    def _rows(self, bytes_: Tensor, scale: Tensor) -> Tensor:
        rows = torch.cat(halves(bytes_), dim=-1) * scale.unsqueeze(-1).float()
        return rows.flatten(-2)[..., : self.num_inputs]


class Int4Kernel(Matrix):
    """The same weight as the compiled kernel reads it: (O/64, I/8, 64, 4) bytes, (O/64, G, 64) scales.

    Inputs are rounded to int8, with a scale for each row.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, plain: Int4) -> None:
        super().__init__()
        self.num_outputs, self.num_inputs = len(plain.bytes_OGJ), plain.num_inputs
        low, high = plain.bytes_OGJ & 15, plain.bytes_OGJ >> 4
        steps_OS24 = torch.unflatten(torch.cat((low, high), dim=-1), -1, (-1, 2, 4)).flatten(1, 2)
        bytes_OI = (steps_OS24[:, :, 0] | steps_OS24[:, :, 1] << 4).flatten(1)
        self.register_buffer("weight", in_blocks(bytes_OI, 4, OFFSET | OFFSET << 4))
        scale_OG = F.pad(plain.scale_OG, (0, 0, 0, -self.num_outputs % BLOCK))
        self.register_buffer("scale", torch.unflatten(scale_OG, 0, (-1, BLOCK)).transpose(1, 2).contiguous())

    @classmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        return cls(Int4.pack(weight_OI))

    def linear(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        out: Tensor = torch.ops.worldsize_kernels.int4_linear(x, self.weight, self.scale, bias_O, self.num_outputs)
        return out

    def embed(self, ids: Tensor) -> Tensor:
        bytes_ = self.weight[ids // BLOCK, :, ids % BLOCK]
        values = torch.stack((bytes_ & 15, bytes_ >> 4), dim=-2).flatten(-3).float() - OFFSET
        scale = self.scale[ids // BLOCK, :, ids % BLOCK].float()
        rows: Tensor = torch.unflatten(values, -1, (-1, GROUP)) * scale.unsqueeze(-1)
        return rows.flatten(-2)[..., : self.num_inputs]


def halves(bytes_: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values in the low and in the high halves of bytes, in fp32."""
    return (bytes_ & 15).float() - OFFSET, (bytes_ >> 4).float() - OFFSET


def to_int4(groups_OGI: Tensor) -> tuple[Tensor, Tensor]:
    """Return values from -8 to 7 and the scale_OG that leaves the least squared error of those that are tried.

    The weight that is largest in size becomes -8 at a stretch of 1; a smaller scale cuts it off and serves the others.
    """
    largest_OG1 = groups_OGI.gather(-1, groups_OGI.abs().argmax(-1, keepdim=True))
    best, best_scale, least = None, None, None
    for stretch in STRETCHES:
        scale_OG1 = (largest_OG1 * (stretch / SMALLEST)).half()
        scale_OG1 = torch.where(scale_OG1 != 0, scale_OG1, 1.0)
        values = (groups_OGI / scale_OG1.float()).round().clamp(SMALLEST, LARGEST)
        error_OG1 = (values * scale_OG1.float() - groups_OGI).square().sum(-1, keepdim=True)
        if best is None or best_scale is None or least is None:
            best, best_scale, least = values, scale_OG1, error_OG1
            continue
        better = error_OG1 < least
        best = torch.where(better, values, best)
        best_scale = torch.where(better, scale_OG1, best_scale)
        least = torch.minimum(error_OG1, least)
    assert best is not None
    assert best_scale is not None
    return best.to(torch.int8), best_scale.squeeze(-1)
