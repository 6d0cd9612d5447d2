"""Every way to keep weights, by the name that people type."""

from __future__ import annotations

from dataclasses import dataclass

from worldsize.errors import UserError, unknown
from worldsize.inference.int4 import Int4
from worldsize.inference.int8 import Int8
from worldsize.inference.matrix import Bf16, Fp32, Matrix
from worldsize.inference.stock import (
    TorchaoFloat8,
    TorchaoInt4Weights,
    TorchaoInt8Dynamic,
    TorchaoInt8Weights,
    TorchDynamic,
)


@dataclass(frozen=True)
class Method:
    """How a model's matrices are kept and multiplied. Biases, norms and positions stay in fp32 with every method."""

    name: str
    about: str
    """One line for people."""
    blocks: type[Matrix]
    """The matrices of the blocks."""
    ends: type[Matrix]
    """Token embedding and head: one matrix where they are tied and its rows can be looked up."""

    def why_not(self) -> str | None:
        """Return None where this machine has what it needs, or what is lacking, in words."""
        return self.blocks.why_not() or self.ends.why_not()


def _same(name: str, matrix: type[Matrix], about: str) -> Method:
    return Method(name, about, matrix, matrix)


_ALL = (
    _same("fp32", Fp32, "as trained"),
    _same("bf16", Bf16, "weights and products in bfloat16"),
    _same("int8", Int8, "8 bits, a scale for each output; embedding and head once"),
    Method("int4", "4 bits in groups of 32; embedding and head in int8", Int4, Int8),
    _same("int4-all", Int4, "4 bits in groups of 32, embedding and head too"),
    _same("torchao-int8-weights", TorchaoInt8Weights, "torchao's Int8WeightOnlyConfig"),
    _same("torchao-int8-dynamic", TorchaoInt8Dynamic, "torchao's Int8DynamicActivationInt8WeightConfig"),
    _same("torchao-int4-weights", TorchaoInt4Weights, "torchao's Int4WeightOnlyConfig"),
    _same("torchao-float8", TorchaoFloat8, "torchao's Float8DynamicActivationFloat8WeightConfig"),
    _same("torch-dynamic", TorchDynamic, "PyTorch's old quantize_dynamic, as most tutorials do it (deprecated)"),
)
METHODS: dict[str, Method] = {found.name: found for found in _ALL}


def method(name: str) -> Method:
    """Return a method by its name. Raises UserError when there is none of that name, or it cannot run here."""
    found = known(name)
    reason = found.why_not()
    if reason is not None:
        raise UserError(f"method {name} is not here, because: {reason}. Use another --method.")
    return found


def known(name: str) -> Method:
    """Return a method by its name, whether or not it can run here. Raises UserError when there is none."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
