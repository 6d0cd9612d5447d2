"""Which samples a step consumes: a pure function of (seed, step, global batch), whatever the layout.

All epochs, each a permutation of all samples, follow each other in one endless stream of sample ids. Step k takes
the positions [k × global_batch, (k + 1) × global_batch): another global batch cuts the same stream elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from worldsize.errors import UserError

DIGEST_MODULUS = 2**128


class Sampler:
    """The endless stream of sample ids of one seed. Nothing to save but the step."""

    def __init__(self, num_samples: int, seed: int) -> None:
        """Raises UserError when there are no samples."""
        if num_samples < 1:
            raise UserError("there is not one sample to draw. Use more text, or a smaller model.context_length.")
        self.num_samples = num_samples
        self.seed = seed
        self._permutations: dict[int, np.ndarray] = {}

    def sample_ids(self, step: int, global_batch: int) -> np.ndarray:
        """Return the ids (int64, shape (global_batch,)) that all ranks together consume in `step`."""
        start = step * global_batch
        epochs = range(start // self.num_samples, (start + global_batch - 1) // self.num_samples + 1)
        self._permutations = {epoch: self._permutation(epoch) for epoch in epochs}
        positions = np.arange(global_batch) + start % self.num_samples
        stream = [self._permutations[epoch] for epoch in epochs]
        return stream[0][positions] if len(stream) == 1 else np.concatenate(stream)[positions]

    def shard(self, ids: np.ndarray, rank: int, num_ranks: int) -> np.ndarray:
        """Return the contiguous part of a step's ids that one of `num_ranks` data ranks consumes.

        Raises UserError when the ids do not divide into equal parts.
        """
        if len(ids) % num_ranks:
            raise UserError(
                f"{len(ids)} samples do not divide into {num_ranks} data ranks. Use a train.global_batch that is a "
                f"multiple of {num_ranks}."
            )
        per_rank = len(ids) // num_ranks
        return ids[rank * per_rank : (rank + 1) * per_rank]

    def _permutation(self, epoch: int) -> np.ndarray:
        """Return the order of all samples in `epoch`.

        Sorted by raw 64-bit draws, whose stream numpy keeps the same in every version; it does not promise that of
        its shuffles. The epoch is a spawn key, which cannot run into the seed's own words as a second word could.
        """
        if epoch in self._permutations:
            return self._permutations[epoch]
        bits = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        draws: np.ndarray = bits.random_raw(self.num_samples)
        order: np.ndarray = np.argsort(draws, kind="stable")
        return order


def digest(step: int, ids: np.ndarray) -> int:
    """Return the sum mod 2**128 of a 128-bit hash of each (step, id).

    Digests of ranks and of steps add up (see `combine`); a repeat, another id or another step changes the sum, the
    order within a step does not.
    """
    keys = np.asarray(ids).astype(np.uint64)
    low, high = (_mix(keys ^ _mix(np.array([step], dtype=np.uint64) + lane)) for lane in _LANES)
    return (_exact_sum(low) + (_exact_sum(high) << 64)) % DIGEST_MODULUS


def combine(digests: Iterable[int]) -> int:
    """Return the digest of everything that `digests` cover."""
    return sum(digests) % DIGEST_MODULUS


def to_hex(value: int) -> str:
    """Return a digest as 32 hexadecimal digits."""
    return f"{value:032x}"


_LANES = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))
"""Keys of the two 64-bit halves: the first 128 fractional bits of pi."""


def _mix(values: np.ndarray) -> np.ndarray:
    """Return splitmix64's output for each 64-bit state (Steele, Lea & Flood, OOPSLA 2014; constants by D. Stafford)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _exact_sum(values: np.ndarray) -> int:
    """Return the sum of 64-bit values without wrapping round (up to 2**32 of them)."""
    low, high = values & np.uint64(0xFFFFFFFF), values >> np.uint64(32)
    return int(low.sum(dtype=np.uint64)) + (int(high.sum(dtype=np.uint64)) << 32)
