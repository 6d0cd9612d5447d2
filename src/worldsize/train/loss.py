"""The loss: a sum over target tokens, which the caller divides by the global count of target tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsize.data.batch import IGNORED_TARGET


def loss_sum(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Return the fp32 cross entropy summed over all targets that are not IGNORED_TARGET, a scalar."""
    return F.cross_entropy(
        logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORED_TARGET, reduction="sum"
    )


class Objective(nn.Module):
    """A model and its loss as one module, so that compilation and DDP see the whole of forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the loss summed over this micro batch's target tokens."""
        return loss_sum(self.model(tokens_BT), targets_BT)


def check_finite(loss: float, step: int) -> None:
    """Raise FloatingPointError when a step's loss is not a number that training can use."""
    if not torch.isfinite(torch.tensor(loss)):
        raise FloatingPointError(f"the loss is {loss} at step {step}")
