"""Translation by a decoder: it reads the source, then the end token, then writes the target and the end token.

A pair of m source and n target tokens is the inputs `s1 … sm E t1 … tn` and the targets `t1 … tn E` from E's position
on; before it nothing is predicted. B samples, T positions. Without packing a sample is a pair, padded to its batch's
longest; with packing it is as many pairs as the context holds, numbered by `segments_BT`, so that none sees another.
"""

from __future__ import annotations

import numpy as np

from worldsize.data.batch import IGNORED_TARGET, Batch
from worldsize.data.classification import no_rows, padded_width
from worldsize.data.row_file import RowFile, Split
from worldsize.data.tokenizer import Tokenizer
from worldsize.errors import UserError


class Translation:
    """The samples of one split of pairs. Pairs that the context does not hold are left out and counted."""

    def __init__(
        self, rows: RowFile, context_length: int, split: Split, *, packing: bool = False, full_width: bool = False
    ) -> None:
        """Raises UserError when the split holds no pair that fits."""
        self._rows, self._numbers = rows, rows.rows_of(split)
        if len(self._numbers) == 0:
            raise no_rows(rows, split)
        self._context_length, self._packing, self._full_width = context_length, packing, full_width
        self._tokens, self._offsets = rows.tokens(), rows.offsets()
        first = 2 * self._numbers.start
        lengths = np.diff(self._offsets[first : 2 * self._numbers.stop + 1])
        sources, targets = lengths[0::2], lengths[1::2]
        fits = sources + 1 + targets <= context_length
        self.num_left_out = int((~fits).sum())
        if not fits.any():
            raise UserError(
                f"no pair of the {split} split of {rows.source!r} fits model.context_length={context_length}; the "
                f"shortest needs {int((sources + 1 + targets).min())} tokens. Raise model.context_length."
            )
        kept = np.flatnonzero(fits)
        self._pairs = kept + self._numbers.start
        self._pair_lengths = (sources + 1 + targets)[kept]
        self._pair_targets = (targets + 1)[kept]
        bins = packed(self._pair_lengths, context_length) if packing else [[i] for i in range(len(kept))]
        self._members = bins
        self.num_samples = len(bins)
        self._num_targets = np.array([self._pair_targets[members].sum() for members in bins])

    @property
    def text_lengths(self) -> np.ndarray:
        return self._pair_lengths

    def num_target_tokens(self, ids: np.ndarray) -> int:
        """Return the target tokens of the samples `ids`, their end tokens included."""
        return int(self._num_targets[ids].sum())

    def batch(self, ids: np.ndarray, global_target_tokens: int, step: int | None = None) -> Batch:
        """Return the samples `ids` as one micro batch."""
        import torch

        members = [self._members[index] for index in ids]
        longest = max(int(self._pair_lengths[pairs].sum()) for pairs in members)
        width = padded_width(longest, self._context_length, self._full_width or self._packing)
        shape = (len(ids), width)
        tokens_BT = np.full(shape, self._rows.end, dtype=np.int64)
        targets_BT = np.full(shape, IGNORED_TARGET, dtype=np.int64)
        segments_BT = np.zeros(shape, dtype=np.int64)
        for row, pairs in enumerate(members):
            start = 0
            for segment, pair in enumerate(pairs, 1):
                source, target = self._texts(int(self._pairs[pair]))
                stop = start + len(source) + 1 + len(target)
                tokens_BT[row, start:stop] = [*source, self._rows.end, *target]
                targets_BT[row, start + len(source) : stop] = [*target, self._rows.end]
                segments_BT[row, start:stop] = segment
                start = stop
        return Batch(
            tokens_BT=torch.from_numpy(tokens_BT),
            targets_BT=torch.from_numpy(targets_BT),
            num_target_tokens=self.num_target_tokens(ids),
            global_target_tokens=global_target_tokens,
            segments_BT=torch.from_numpy(segments_BT) if self._packing else None,
            num_tokens=int((segments_BT > 0).sum()),
        )

    def _texts(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        first, middle, last = self._offsets[2 * row : 2 * row + 3]
        return self._tokens[first:middle], self._tokens[middle:last]

    def source(self, index: int) -> list[int]:
        """Return the source tokens of the split's row `index`, whether or not its pair fits."""
        return [int(token) for token in self._texts(self._numbers.start + index)[0]]

    def row_of(self, sample: int) -> int:
        """Return which of the split's rows a sample is. Without packing, where a sample is one pair."""
        (pair,) = self._members[sample]
        return int(self._pairs[pair]) - self._numbers.start

    @property
    def end(self) -> int:
        """The end token's id."""
        return self._rows.end

    @property
    def references(self) -> tuple[str, ...]:
        """Target texts of the held-out rows, as they were."""
        return self._rows.held_out_targets

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that made the tokens."""
        return self._rows.tokenizer_used()

    @property
    def num_rows(self) -> int:
        """Rows of the split, those left out of training included."""
        return len(self._numbers)


def packed(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Put texts into as few samples of `capacity` tokens as best-fit decreasing finds; return each sample's texts.

    The longest text first, each into the fullest sample that still holds it. A function of the lengths alone.
    """
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    for index in np.argsort(-lengths, kind="stable"):
        length = int(lengths[index])
        room = next((r for r in range(length, capacity + 1) if with_room[r]), None)
        if room is None:
            bins.append([])
            which, room = len(bins) - 1, capacity
        else:
            which = with_room[room].pop()
        bins[which].append(int(index))
        with_room[room - length].append(which)
    return bins
