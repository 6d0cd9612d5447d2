"""Text classification: one text, one class.

B samples, T positions: of a batch's longest text, rounded up to a multiple of 8. Sample i is row i of its split.
"""

from __future__ import annotations

import numpy as np

from worldsize.data.batch import Batch
from worldsize.data.row_file import RowFile, Split
from worldsize.errors import UserError

WIDTH_MULTIPLE = 8


class Classification:
    """The samples of one split of labelled rows."""

    def __init__(
        self,
        rows: RowFile,
        context_length: int,
        split: Split,
        *,
        front: bool = False,
        full_width: bool = False,
        token_dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`front` puts the end token before each text, for a class to be read from; `full_width` pads every batch to
        the context, as compiled models want it; `token_dropout` of a text's tokens are hidden in training, its first
        never. Texts that are longer than the context are cut off at its end.

        Raises UserError when the split holds no row.
        """
        numbers = rows.rows_of(split)
        self.num_samples = len(numbers)
        if self.num_samples == 0:
            raise no_rows(rows, split)
        self.labels = rows.labels
        self._end, self._front = rows.end, front
        self._context_length, self._full_width = context_length, full_width
        self._token_dropout, self._seed = token_dropout, seed
        self._tokens = rows.tokens()
        self._starts = rows.offsets()[numbers.start : numbers.stop + 1]
        self._classes = rows.classes()[numbers.start : numbers.stop]
        lengths = np.diff(self._starts) + front
        self._lengths: np.ndarray = np.clip(lengths, 1, context_length)  # an empty text is its end token

    @property
    def text_lengths(self) -> np.ndarray:
        return self._lengths

    def num_target_tokens(self, ids: np.ndarray) -> int:
        """Return the number of samples: each has one target, its class."""
        return len(ids)

    def batch(self, ids: np.ndarray, global_target_tokens: int, step: int | None = None) -> Batch:
        """Return the samples `ids` as one micro batch: targets are classes (B), segments 1 at tokens, 0 at padding."""
        import torch

        lengths = self._lengths[ids]
        width = padded_width(int(lengths.max()), self._context_length, self._full_width)
        tokens_BT = np.full((len(ids), width), self._end, dtype=np.int64)
        for row, (index, length) in enumerate(zip(ids, lengths, strict=True)):
            first = self._starts[index]
            text = self._tokens[first : min(self._starts[index + 1], first + length - self._front)]
            tokens_BT[row, self._front : self._front + len(text)] = text
        segments_BT = (np.arange(width) < lengths[:, None]).astype(np.int64)
        if step is not None and self._token_dropout > 0:
            for row, index in enumerate(ids):
                segments_BT[row, 1:] *= self._keeps(int(index), step, width - 1)
        return Batch(
            tokens_BT=torch.from_numpy(tokens_BT),
            targets_BT=torch.from_numpy(self._classes[ids].astype(np.int64)),
            num_target_tokens=len(ids),
            global_target_tokens=global_target_tokens,
            segments_BT=torch.from_numpy(segments_BT),
            num_tokens=int(lengths.sum()),
        )

    def _keeps(self, index: int, step: int, count: int) -> np.ndarray:
        """Return which of a sample's tokens are seen at `step`: the same in every layout and batch."""
        draws = np.random.Generator(np.random.PCG64([self._seed, step, index])).random(self._context_length)
        return draws[:count] >= self._token_dropout


def padded_width(longest: int, context_length: int, full_width: bool) -> int:
    """Return the positions of a batch whose longest text has `longest` tokens."""
    if full_width:
        return context_length
    return min(context_length, -(-longest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE)


def no_rows(rows: RowFile, split: Split) -> UserError:
    advice = (
        "Give data.validation_source=FILE or a larger data.validation_fraction, or use train.eval_samples=0"
        if split == "validation"
        else "Give more rows, or a smaller data.validation_fraction"
    )
    return UserError(f"the {split} split of {rows.source!r} holds none of its {rows.num_rows} rows. {advice}.")
