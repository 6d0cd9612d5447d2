"""What the data room hands to a strategy, and what it asks of every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

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
    """int64 ids to predict; IGNORED_TARGET where there is none. Of classification: one class a sample, shape (B)."""
    num_target_tokens: int
    """Targets in this micro batch."""
    global_target_tokens: int
    """Targets of the whole optimizer step over all ranks: what every loss and gradient is divided by."""
    segments_BT: Tensor | None = None
    """int64: which of a sample's texts a token belongs to, from 1; 0 is padding,
    or hidden. None where no token must be told from
    another: texts that fill their samples, or, under causal attention, end in padding."""
    num_tokens: int = 0
    """Input tokens that are not padding; 0 stands for as many as there are targets."""

    def __post_init__(self) -> None:
        self.num_tokens = self.num_tokens or self.num_target_tokens

    def to(self, device: torch.device) -> Batch:
        """Copy to `device`, asynchronously from pinned memory."""
        return Batch(
            self.tokens_BT.to(device, non_blocking=True),
            self.targets_BT.to(device, non_blocking=True),
            self.num_target_tokens,
            self.global_target_tokens,
            None if self.segments_BT is None else self.segments_BT.to(device, non_blocking=True),
            self.num_tokens,
        )


class Samples(Protocol):
    """One split of a task's data: what is numbered, counted and made into batches."""

    num_samples: int

    @property
    def text_lengths(self) -> np.ndarray | None:
        """Tokens of each text that attends within itself, for counting FLOP; None where every sample is a full text."""
        ...

    def batch(self, ids: np.ndarray, global_target_tokens: int, step: int | None = None) -> Batch:
        """Return the samples `ids` as one micro batch on the CPU; `step` is that of training, None in evaluation."""
        ...

    def num_target_tokens(self, ids: np.ndarray) -> int:
        """Return how many targets the samples `ids` hold."""
        ...
