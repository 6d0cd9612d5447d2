"""Linear layers that use the processor's whole vector width in fp32.

PyTorch's x86 wheels multiply fp32 matrices with Intel's MKL, which leaves AVX-512 unused on AMD processors: half of
their rate or less. The same wheels carry oneDNN, which does not; so on such a processor fp32 products go there, at
full fp32 precision. Everywhere else (other dtypes, devices and processors) this is `F.linear`.

This file holds one private name, `mkldnn._linear_pointwise` (torch 2.11-2.13); tests/models/test_linear.py pins it.

Letters: N rows of the input, I inputs, O outputs; `...` any leading dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Linear(nn.Linear):
    """`nn.Linear`, through `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return x·weightᵀ + bias, as `F.linear` does.

    Of a weight whose rows are spread over ranks, this rank's columns of the product, with this rank's rows.
    """
    if isinstance(weight_OI, DTensor):
        weight_OI = weight_OI.to_local()
    if ONEDNN_IS_FASTER and _is_plain_fp32_on_cpu(x, weight_OI):
        out: Tensor = _onednn_linear(x, weight_OI, bias_O)
        return out
    return F.linear(x, weight_OI, bias_O)


def linear_without_gradient(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return x·weightᵀ + bias, as `linear` does; the first call is seconds sooner, since no compiler is loaded."""
    if torch.compiler.is_compiling():
        return linear(x, weight_OI, bias_O)
    if ONEDNN_IS_FASTER and _is_plain_fp32_on_cpu(x, weight_OI):
        return _product(x, weight_OI, bias_O)
    return F.linear(x, weight_OI, bias_O)


def onednn_is_faster() -> bool:
    """Return True where torch's fp32 products leave AVX-512 unused: on AMD, with oneDNN and AVX-512 at hand."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _cpu_vendor() == "AuthenticAMD"
    )


def _cpu_vendor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), None)


ONEDNN_IS_FASTER = onednn_is_faster()
"""Found out once, at import: torch.compile takes a constant as it is, and would trace into a function."""


def _is_plain_fp32_on_cpu(x: Tensor, weight_OI: Tensor) -> bool:
    """Autocast, sharded tensors and other dtypes keep to `F.linear`."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight_OI.dtype == torch.float32
        and type(weight_OI) in (Tensor, nn.Parameter)
        and not torch.is_autocast_enabled("cpu")
    )


def _product(left_NI: Tensor, right_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return left·rightᵀ + bias by oneDNN; either operand may be a transposed view."""
    out_NO: Tensor = torch.ops.mkldnn._linear_pointwise(left_NI, right_OI, bias_O, "none", [], "")
    return out_NO


@torch.library.custom_op("worldsize::linear", mutates_args=())
def _onednn_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    return _product(x, weight_OI, bias_O)


@torch.library.custom_op("worldsize::linear_backward", mutates_args=())
def _onednn_linear_backward(grad: Tensor, x: Tensor, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of input and weight."""
    grad_NO, x_NI = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    return _product(grad_NO, weight_OI.t()).view(x.shape), _product(grad_NO.t(), x_NI.t())


@_onednn_linear.register_fake
def _(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight_OI.shape[0])


@_onednn_linear_backward.register_fake
def _(grad: Tensor, x: Tensor, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(weight_OI)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    x, weight_OI = ctx.saved_tensors
    grad_x, grad_weight_OI = _onednn_linear_backward(grad, x, weight_OI)
    grad_bias_O = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
    return grad_x, grad_weight_OI, grad_bias_O


_onednn_linear.register_autograd(_backward, setup_context=_save)
