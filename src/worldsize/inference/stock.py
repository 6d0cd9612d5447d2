"""The quantization that PyTorch's own libraries offer, as back-ends: torchao's, and the old dynamic quantization.

They are what tutorials show, so they do what those do: linear layers are quantized and the token embedding is not,
which parts it from a head that it was tied to. Letters as in matrix.py.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsize.inference.matrix import Matrix

TRIAL_SHAPE = (64, 128)


class Stock(Matrix):
    """A linear layer of somebody else's."""

    embeds = False

    def embed(self, ids: Tensor) -> Tensor:
        raise NotImplementedError("only its products are quantized")

    @classmethod
    @functools.cache
    def why_not(cls) -> str | None:
        """Try it on a small weight: what a library lacks here, it says then."""
        try:
            with quiet():
                matrix = cls.pack(torch.ones(TRIAL_SHAPE)).ready()
                out = matrix.linear(torch.ones(1, TRIAL_SHAPE[1]))
            return None if out.isfinite().all() else "its product is not finite here"
        except Exception as error:  # every library raises its own kind
            return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Torchao(Stock):
    """A weight that `torchao.quantization.quantize_` has quantized; the tensors inside are the buffers."""

    config_name: ClassVar[str]

    def __init__(self, quantized: Any) -> None:
        super().__init__()
        self._kind = type(quantized)
        names = [*quantized.tensor_data_names, *getattr(quantized, "optional_tensor_data_names", ())]
        self._inner = [name for name in names if isinstance(getattr(quantized, name), Tensor)]
        for name in self._inner:
            self.register_buffer(name, getattr(quantized, name))
        attributes = [*quantized.tensor_attribute_names, *getattr(quantized, "optional_tensor_attribute_names", ())]
        self._attributes = {name: getattr(quantized, name) for name in attributes}
        self._weight: Tensor | None = None

    @classmethod
    def config(cls) -> Any:
        """Return torchao's config. Raises ImportError without torchao."""
        import torchao.quantization

        return getattr(torchao.quantization, cls.config_name)()

    @classmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        with quiet():
            from torchao.quantization import quantize_

            layer = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta")
            layer.weight = nn.Parameter(weight_OI.detach().float().clone(), requires_grad=False)
            quantize_(layer, cls.config())
        return cls(layer.weight)

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Self:
        return cls.pack(torch.zeros(shape))

    def linear(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        if self._weight is None:
            self._weight = self._kind(**{name: getattr(self, name) for name in self._inner}, **self._attributes)
        return F.linear(x, self._weight, bias_O)


class TorchaoInt8Weights(Torchao):
    config_name = "Int8WeightOnlyConfig"


class TorchaoInt8Dynamic(Torchao):
    config_name = "Int8DynamicActivationInt8WeightConfig"

    @classmethod
    def product_type(cls) -> str:
        return "int8"


class TorchaoInt4Weights(Torchao):
    config_name = "Int4WeightOnlyConfig"


class TorchaoFloat8(Torchao):
    config_name = "Float8DynamicActivationFloat8WeightConfig"


class TorchDynamic(Stock):
    """`torch.ao.quantization.quantize_dynamic(model, {nn.Linear})`: one scale a weight, activations in 7 bits.

    PyTorch calls it deprecated; it is here to be compared with.
    """

    compiles = False

    values_OI: Tensor
    scale: Tensor

    def __init__(self, values_OI: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("values_OI", values_OI)
        self.register_buffer("scale", scale)
        self._packed: Any = None

    @classmethod
    def product_type(cls) -> str:
        return "int8"

    @classmethod
    def pack(cls, weight_OI: Tensor) -> Self:
        with quiet():
            layer = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta")
            layer.weight = nn.Parameter(weight_OI.detach().float())
            dynamic: Any = torch.ao.quantization.quantize_dynamic
            quantized = dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
            weight = quantized[0].weight()
            assert weight.q_zero_point() == 0, "symmetric by default"
            return cls(weight.int_repr(), torch.tensor(weight.q_scale()))

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Self:
        return cls(torch.empty(shape, dtype=torch.int8, device="meta"), torch.empty((), device="meta"))

    def ready(self) -> Matrix:
        """Hand the weight to the library, which keeps it in a layout of its own."""
        scale = float(self.scale)
        with quiet():
            weight = torch.quantize_per_tensor(self.values_OI * scale, scale, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(weight, None)
        return self

    def linear(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, True)
        return out if bias_O is None else out + bias_O


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the libraries' warnings of what they will drop one day and of kernels that they do without."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
