"""Int8 weights: a scale for each row of the weight, symmetric. Letters as in matrix.py."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsize.inference import kernels
from worldsize.inference.matrix import Matrix, compiled_row, row_product

LARGEST = 127
BLOCK, STEP = 64, 4
"""Outputs of a block of the kernel's layout, and inputs that lie beside each other in it (kernels/kernels.h)."""


class Int8(Matrix):
    """The weight in int8, row after row, in PyTorch alone.

    Several rows of input are rounded to int8 too, each with a scale of its own: their products are exact integer sums,
    so that a row's result does not depend on the rows beside it. One row that is compiled stays in fp32.
    """

    weight_OI: Tensor
    scale_O: Tensor

    def __init__(self, weight_OI: Tensor, scale_O: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_OI", weight_OI)
        self.register_buffer("scale_O", scale_O)

    @classmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        return cls(*to_int8(weight_OI.detach().float()))

    @classmethod
    def product_type(cls) -> str:
        return "int8"

    def ready(self) -> Matrix:
        return self if kernels.why_not() else Int8Kernel(self)

    def linear(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        if compiled_row(x):
            out = row_product(self.weight_OI, x, None) * self.scale_O
        else:
            x_NI, scale_N = to_int8(x.flatten(0, -2))
            product_NO = int_product(x_NI, self.weight_OI)
            out = (product_NO * scale_N.unsqueeze(1) * self.scale_O).view(*x.shape[:-1], -1)
        return out if bias_O is None else out + bias_O

    def embed(self, ids: Tensor) -> Tensor:
        return self.weight_OI[ids] * self.scale_O[ids].unsqueeze(-1)


class Int8Kernel(Matrix):
    """The same weight as the compiled kernel reads it, and the same arithmetic: results are equal to the bit.

    Values are kept 128 larger, unsigned, in blocks of 64 outputs: (O/64, I/4, 64, 4).
    """

    weight: Tensor
    scale_O: Tensor

    def __init__(self, plain: Int8) -> None:
        super().__init__()
        self.num_outputs, self.num_inputs = plain.weight_OI.shape
        unsigned_OI = (plain.weight_OI.short() + 128).to(torch.uint8)
        self.register_buffer("weight", in_blocks(unsigned_OI, STEP, 128))
        self.register_buffer("scale_O", F.pad(plain.scale_O, (0, -self.num_outputs % BLOCK)))

    @classmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        return cls(Int8.pack(weight_OI))

    def linear(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        out: Tensor = torch.ops.worldsize_kernels.int8_linear(x, self.weight, self.scale_O, bias_O, self.num_outputs)
        return out

    def embed(self, ids: Tensor) -> Tensor:
        rows = self.weight[ids // BLOCK, :, ids % BLOCK].flatten(-2)[..., : self.num_inputs]
        return (rows.float() - 128) * self.scale_O[ids].unsqueeze(-1)


def to_int8(rows_NI: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as int8 and the scale_N that each is to be multiplied by; a row of zeros has the scale 1.

    The scale of a row with a number that is not finite is not finite either, so that what comes of it shows.
    """
    scale_N = rows_NI.abs().amax(-1) / LARGEST
    scale_N = torch.where(scale_N == 0, 1.0, scale_N)
    return (rows_NI / scale_N.unsqueeze(-1)).round().to(torch.int8), scale_N


def int_product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """Return x·weightᵀ of int8 matrices in int32, exactly."""
    if x_NI.shape[1] == 1:  # torch's product is wrong for a single input (seen on the CPU, 2.13)
        return x_NI.int() * weight_OI.int().t()
    return torch._int_mm(x_NI, weight_OI.t())


def in_blocks(bytes_OI: Tensor, step: int, padding: int) -> Tensor:
    """Return a matrix of bytes as (O/64, I/step, 64, step), filled up with `padding`."""
    num_outputs, num_inputs = bytes_OI.shape
    padded = F.pad(bytes_OI, (0, -num_inputs % step, 0, -num_outputs % BLOCK), value=padding)
    return padded.view(-1, BLOCK, padded.shape[1] // step, step).transpose(1, 2).contiguous()
