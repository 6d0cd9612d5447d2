"""What a rank trains on at each step: its share of the step's samples, in micro batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from worldsize.data.batch import Batch, Samples
from worldsize.data.sampler import Sampler
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import Batches


@dataclass(frozen=True)
class Share:
    """One rank's part of one step."""

    sample_ids: np.ndarray
    micro_batches: list[Batch]

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return sum(batch.num_tokens for batch in self.micro_batches)

    @property
    def num_targets(self) -> int:
        return sum(batch.num_target_tokens for batch in self.micro_batches)

    def to(self, device: torch.device) -> Share:
        return Share(self.sample_ids, [batch.to(device) for batch in self.micro_batches])


class Feed:
    """The samples of step k are a pure function of (seed, k, global batch); the layout only cuts them up."""

    def __init__(self, data: Samples, sampler: Sampler, batches: Batches, context: RankContext) -> None:
        self._data = data
        self._sampler = sampler
        self._batches = batches
        self._context = context

    def prescribed_ids(self, step: int) -> np.ndarray:
        """Return the ids that all ranks together must consume at `step`."""
        return self._sampler.sample_ids(step, self._batches.global_batch)

    def share(self, step: int) -> Share:
        """Build this rank's micro batches of `step`, on the host."""
        step_ids = self.prescribed_ids(step)
        ids = self._sampler.shard(step_ids, self._context.data_rank, self._context.layout.num_data_ranks)
        global_tokens = self._data.num_target_tokens(step_ids)
        return Share(ids, micro_batches(self._data, ids, self._batches.micro_batch, global_tokens, step))


def micro_batches(data: Samples, ids: np.ndarray, micro_batch: int, global_tokens: int, step: int) -> list[Batch]:
    """Cut ids into micro batches of at most `micro_batch` samples; the last may be smaller."""
    cuts = range(0, len(ids), micro_batch)
    return [data.batch(ids[cut : cut + micro_batch], global_tokens, step) for cut in cuts]
