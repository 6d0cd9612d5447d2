"""The training loss as a sum, so that batches of any sizes add up to one normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsize.data.batch import IGNORED_TARGET


def loss_sum(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Return the cross entropy summed over all targets that are not IGNORED_TARGET: a scalar in nats, in fp32
    or, of fp64 logits, in fp64.

    Dividing by the global count of target tokens is the caller's part.
    """
    logits_NV = logits_BTV.flatten(0, 1)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return F.cross_entropy(logits_NV, targets_BT.flatten(), ignore_index=IGNORED_TARGET, reduction="sum")
