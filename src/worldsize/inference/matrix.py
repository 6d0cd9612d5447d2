"""Weight matrices as a back-end keeps them: pack once, then multiply and look rows up.

A back-end is a subclass of Matrix with plain tensors as buffers. Activations are fp32 between matrices; what a product
computes in is the back-end's own affair.

Letters: N rows of the input, I inputs, O outputs (rows of the weight); `...` any leading dimensions.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from worldsize.errors import unknown
from worldsize.models.linear import linear_without_gradient

INT8_LARGEST = 127


class Matrix(nn.Module):
    """A weight of O rows and I columns."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        """Return an fp32 weight as this back-end keeps it."""

    @abstractmethod
    def linear(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """Return x·weightᵀ + bias in fp32: (..., I) → (..., O)."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Return rows of the weight in fp32: (...) → (..., I)."""

    @property
    def num_bytes(self) -> int:
        """Bytes that reading the whole weight once takes."""
        return sum(buffer.nbytes for buffer in self.buffers())


class Plain(Matrix):
    """The weight as it is, in one floating-point type."""

    dtype: ClassVar[torch.dtype]
    weight_OI: Tensor

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_OI", weight_OI)

    @classmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        return cls(weight_OI.detach().to(cls.dtype, copy=True).contiguous())

    def linear(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        if self.dtype == torch.float32:
            return linear_without_gradient(x, self.weight_OI, bias_O)
        out = linear_without_gradient(x.to(self.dtype), self.weight_OI).float()
        return out if bias_O is None else out + bias_O

    def embed(self, ids: Tensor) -> Tensor:
        return self.weight_OI[ids].float()


class Fp32(Plain):
    name = "fp32"
    dtype = torch.float32


class Bf16(Plain):
    name = "bf16"
    dtype = torch.bfloat16


class Int8(Matrix):
    """Symmetric int8: a scale for each row of the weight, and one for each row of the input, found anew each time.

    Products are exact integer sums, so a row's result does not depend on the rows beside it.
    """

    name = "int8"
    weight_OI: Tensor
    scale_O: Tensor

    def __init__(self, weight_OI: Tensor, scale_O: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_OI", weight_OI)
        self.register_buffer("scale_O", scale_O)

    @classmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        return cls(*to_int8(weight_OI.detach().float()))

    def linear(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        x_NI, scale_N = to_int8(x.flatten(0, -2))
        product_NO = torch._int_mm(x_NI, self.weight_OI.t())
        out_NO = product_NO * scale_N.unsqueeze(1) * self.scale_O
        if bias_O is not None:
            out_NO = out_NO + bias_O
        return out_NO.view(*x.shape[:-1], -1)

    def embed(self, ids: Tensor) -> Tensor:
        return self.weight_OI[ids] * self.scale_O[ids].unsqueeze(-1)


def to_int8(rows_NI: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as int8 and the scale_N that each is to be multiplied by; a row of zeros has the scale 1."""
    scale_N = rows_NI.abs().amax(-1) / INT8_LARGEST
    scale_N = torch.where(scale_N > 0, scale_N, 1.0)
    return (rows_NI / scale_N.unsqueeze(-1)).round().to(torch.int8), scale_N


METHODS: dict[str, type[Matrix]] = {matrix.name: matrix for matrix in (Fp32, Bf16, Int8)}
"""Every back-end by the name that people type."""


def method(name: str) -> type[Matrix]:
    """Return a back-end by its name. Raises UserError when there is none of that name."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
