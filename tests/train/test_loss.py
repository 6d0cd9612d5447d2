"""The summed loss against a float64 computation by hand."""

from __future__ import annotations

import math

import pytest
import torch

from worldsize.data.batch import IGNORED_TARGET
from worldsize.train.loss import loss_sum


def by_hand(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Loss and its gradient by the definition, in float64: log Σ exp z - z[target], and softmax - one-hot."""
    z_NV = logits_BTV.detach().double().flatten(0, 1)
    gradient_NV = torch.zeros_like(z_NV)
    total = 0.0
    for row, target in enumerate(targets_BT.flatten().tolist()):
        if target == IGNORED_TARGET:
            continue
        exps_V = [math.exp(z) for z in z_NV[row].tolist()]
        total += math.log(sum(exps_V)) - float(z_NV[row, target])
        gradient_NV[row] = torch.tensor(exps_V) / sum(exps_V)
        gradient_NV[row, target] -= 1
    return total, gradient_NV.view(logits_BTV.shape)


def example(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_BTV = (3 * torch.randn(4, 7, 33, generator=generator)).to(dtype).requires_grad_()
    targets_BT = torch.randint(33, (4, 7), generator=generator)
    targets_BT[0, 3:] = IGNORED_TARGET
    return logits_BTV, targets_BT


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_value_and_gradient_equal_the_definition(dtype: torch.dtype, tolerance: float) -> None:
    logits_BTV, targets_BT = example(dtype)
    loss = loss_sum(logits_BTV, targets_BT)
    loss.backward()
    value, gradient_BTV = by_hand(logits_BTV, targets_BT)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(value, rel=1e-6)
    assert logits_BTV.grad is not None
    torch.testing.assert_close(logits_BTV.grad.double(), gradient_BTV, rtol=tolerance, atol=1e-7)


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
    logits_BTV, targets_BT = example(torch.float32)
    parts = sum(loss_sum(logits_BTV[i : i + 1], targets_BT[i : i + 1]).item() for i in range(4))
    assert loss_sum(logits_BTV, targets_BT).item() == pytest.approx(parts, rel=1e-6)


def test_nothing_but_padding_has_no_loss_and_no_gradient() -> None:
    logits_BTV, targets_BT = example(torch.float32)
    loss = loss_sum(logits_BTV, torch.full_like(targets_BT, IGNORED_TARGET))
    loss.backward()
    assert loss.item() == 0.0
    assert logits_BTV.grad is not None
    assert not logits_BTV.grad.any()
