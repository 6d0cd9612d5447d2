"""Our linear against float64, whichever way it takes; and the private oneDNN product that it relies on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsize.models import linear as module
from worldsize.models.linear import Linear, linear

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(module, "ONEDNN_IS_FASTER", request.param)


def operands(*shape: int, outputs: int, bias: bool) -> list[Tensor]:
    """Input, weight and, if asked for, bias: fp32 leaves that take gradients."""
    generator = torch.Generator().manual_seed(1)
    shapes = [shape, (outputs, shape[-1])] + [(outputs,)] * bias
    return [torch.randn(s, generator=generator).requires_grad_() for s in shapes]


def value_and_gradients(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    out = function(*tensors)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), tensors)]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 33), (64, 48)])
def test_value_and_gradients_equal_float64(shape: tuple[int, ...], bias: bool) -> None:
    tensors = operands(*shape, outputs=19, bias=bias)
    exact = value_and_gradients(F.linear, [t.detach().double().requires_grad_() for t in tensors])
    for got, expected in zip(value_and_gradients(linear, tensors), exact, strict=True):
        assert got.dtype == torch.float32
        assert got.is_contiguous()
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


@needs_onednn
def test_fp32_products_are_not_rounded_to_fewer_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 + 2⁻²² survives fp32's 24 bits; tf32 (11) and bf16 (8) lose it."""
    monkeypatch.setattr(module, "ONEDNN_IS_FASTER", True)
    x = torch.full((64, 64), 1 + 2**-22)
    assert torch.equal(linear(x, torch.eye(64)), x)


@needs_onednn
def test_opcheck_accepts_the_operators() -> None:
    x, weight, bias = operands(4, 6, outputs=5, bias=True)
    torch.library.opcheck(torch.ops.worldsize.linear.default, (x, weight, bias))
    torch.library.opcheck(torch.ops.worldsize.linear_backward.default, (torch.randn(4, 5), x.detach(), weight.detach()))


@needs_onednn
def test_strided_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ONEDNN_IS_FASTER", True)
    x = torch.randn(10, 6, 8).transpose(0, 1)
    weight = torch.randn(8, 12).t()
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)


def test_autocast_and_other_dtypes_take_torchs_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ONEDNN_IS_FASTER", True)
    layer = Linear(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(3, 6)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(3, 6, dtype=torch.float64)).dtype == torch.float64
    assert layer.to("meta", torch.float32)(torch.empty(3, 6, device="meta")).device.type == "meta"


def test_only_amd_with_avx512_goes_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for vendor, capability, expected in [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        (None, "DEFAULT", False),
    ]:
        monkeypatch.setattr(module, "_cpu_vendor", lambda vendor=vendor: vendor)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert module.onednn_is_faster() is expected


@needs_onednn
@pytest.mark.slow
def test_compiles_as_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ONEDNN_IS_FASTER", True)
    tensors = operands(2, 6, 8, outputs=16, bias=True)
    eager = value_and_gradients(lambda *t: F.gelu(linear(*t)), tensors)
    compiled = torch.compile(lambda *t: F.gelu(linear(*t)), fullgraph=True)
    for got, expected in zip(value_and_gradients(compiled, tensors), eager, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
