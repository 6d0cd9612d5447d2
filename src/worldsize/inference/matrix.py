"""Weight matrices as a back-end keeps them: pack once, then multiply and look rows up.

A back-end is a subclass of Matrix with plain tensors as buffers: they are what a file holds. Activations are fp32
between matrices; what a product computes in is the back-end's own affair.

Letters: N rows of the input, I inputs, O outputs (rows of the weight); `...` any leading dimensions.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from worldsize.models.linear import linear_without_gradient


class Matrix(nn.Module):
    """A weight of O rows and I columns."""

    embeds: ClassVar[bool] = True
    """Whether rows can be looked up, so that an embedding and a head that are one weight stay one."""

    compiles: ClassVar[bool] = True
    """Whether torch's compiler takes its products into a graph."""

    @classmethod
    @abstractmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        """Return an fp32 weight as this back-end keeps it."""

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Self:
        """Return a matrix of a shape whose buffers are still to be given, as a file is read."""
        return cls.pack(torch.empty(shape, device="meta"))

    @classmethod
    def why_not(cls) -> str | None:
        """Return None where this machine can compute with it, or why it cannot, in words."""
        return None

    @classmethod
    def product_type(cls) -> str:
        """Return the type in which this machine multiplies many rows of input by it: fp32, bf16 or int8."""
        return "fp32"

    def ready(self) -> Matrix:
        """Return what multiplies on this machine: itself, or the same weight in another layout."""
        return self

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
        if compiled_row(x):
            return row_product(self.weight_OI, x, bias_O)
        if self.dtype == torch.float32:
            return linear_without_gradient(x, self.weight_OI, bias_O)
        out = linear_without_gradient(x.to(self.dtype), self.weight_OI).float()
        return out if bias_O is None else out + bias_O

    def embed(self, ids: Tensor) -> Tensor:
        return self.weight_OI[ids].float()


class Fp32(Plain):
    dtype = torch.float32


class Bf16(Plain):
    dtype = torch.bfloat16

    @classmethod
    def product_type(cls) -> str:
        return "bf16"


def compiled_row(x: Tensor) -> bool:
    """Return whether torch's compiler is looking, and the input is one row: a product that it does best by itself."""
    return torch.compiler.is_compiling() and x.numel() == x.shape[-1]


def row_product(weight_OI: Tensor, x: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return weight·x + bias of one row, as multiplications and a sum that the compiler makes one loop of."""
    out_O = (weight_OI.float() * written_out(x).view(-1)).sum(-1)
    return (out_O if bias_O is None else out_O + bias_O).view(*x.shape[:-1], -1)


def written_out(x: Tensor) -> Tensor:
    """Return x, in memory: the compiler would compute what x comes from anew for each output."""
    return torch.as_strided(x.contiguous(), x.shape, x.contiguous().stride())
