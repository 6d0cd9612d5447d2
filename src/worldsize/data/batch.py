"""What the data room hands to a strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORED_TARGET = -100
"""A target that is padding: it adds neither loss nor gradient, and is not counted as a token."""


@dataclass
class Batch:
    """One micro batch. B samples, T positions."""

    tokens_BT: Tensor
    """int64 token ids."""
    targets_BT: Tensor
    """int64 ids to predict; IGNORED_TARGET where there is none."""
    num_target_tokens: int
    """Target tokens in this micro batch."""
    global_target_tokens: int
    """Target tokens of the whole optimizer step over all ranks: what every loss and gradient is divided by."""

    def to(self, device: torch.device) -> Batch:
        """Copy to `device`, asynchronously from pinned memory."""
        return Batch(
            self.tokens_BT.to(device, non_blocking=True),
            self.targets_BT.to(device, non_blocking=True),
            self.num_target_tokens,
            self.global_target_tokens,
        )
