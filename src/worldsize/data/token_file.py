"""What tokenizing leaves behind and every rank reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class TokenFile:
    """A tokenized corpus on disk."""

    path: Path
    num_tokens: int
    vocab_size: int
    dtype: str
    """'uint8', 'uint16' or 'uint32': the smallest that holds the vocabulary."""
    digest: str
    """SHA-256 of the ids and their type: equal digests are equal tokens, wherever the text came from."""
    num_train_tokens: int
    """The first so many train; the rest is held out."""
    tokenizer: str
    source: str

    def tokens(self) -> np.ndarray:
        """Return all token ids, memory-mapped and read-only."""
        return np.asarray(np.memmap(self.path, dtype=np.dtype(self.dtype).newbyteorder("<"), mode="r"))
