"""Attention in bf16 on CPU against float64, and how little its rounding adds to a whole model's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.model_configs import gpt
from worldsize.models import attention
from worldsize.models.attention import causal_attention, explicit_attention
from worldsize.models.decoder import build
from worldsize.train.loss import loss_sum


def heads(*shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def test_explicit_is_exact_in_float64() -> None:
    tensors = heads(2, 3, 9, 4)
    outs = [explicit_attention(*tensors), F.scaled_dot_product_attention(*tensors, is_causal=True)]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-14)
    gradients = [torch.autograd.grad(out.square().sum(), tensors) for out in outs]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("length", [16, 512, 520])
def test_bf16_is_within_its_rounding_of_float64(length: int) -> None:
    tensors = heads(1, 2, length, 16)
    exact = F.scaled_dot_product_attention(*tensors, is_causal=True)
    got = causal_attention(*(t.detach().bfloat16() for t in tensors))
    assert got.dtype == torch.bfloat16
    assert ((got.double() - exact).norm() / exact.norm()).item() < 2**-6


def test_grouped_queries_and_dropout_go_to_torch() -> None:
    q, _, _ = (t.detach().bfloat16() for t in heads(1, 4, 8, 16))
    k, v, _ = (t.detach().bfloat16() for t in heads(1, 2, 8, 16))
    repeated = (t.repeat_interleave(2, dim=1) for t in (k, v))
    torch.testing.assert_close(causal_attention(q, k, v), causal_attention(q, *repeated), rtol=0.05, atol=0.02)
    assert not torch.equal(causal_attention(q, q, q, dropout=0.5), causal_attention(q, q, q, dropout=0.5))


def gradient(autocast: bool) -> Tensor:
    """The gradient of a small model, all of it, in fp32 or under bf16 autocast."""
    model = gpt(num_layers=4, d_model=64, context_length=64)
    decoder = build(model, 0, "cpu")
    tokens_BT = torch.randint(61, (8, 64), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = loss_sum(decoder(tokens_BT), tokens_BT.roll(-1, dims=1))
    loss.backward()
    return torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None])


def test_a_models_gradient_is_as_exact_as_with_torchs_own_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = gradient(autocast=False)
    ours = (gradient(autocast=True) - exact).norm()
    monkeypatch.setattr(attention, "LONGEST_EXPLICIT", 0)
    theirs = (gradient(autocast=True) - exact).norm()
    assert ours < 1.2 * theirs
    assert theirs < 0.02 * exact.norm()
