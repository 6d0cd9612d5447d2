"""Documents in pieces of at most 64 KiB, so that memory stays bounded and pieces can be tokenized in parallel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

PIECE_BYTES = 64 * 1024
"""Small enough for the caches of a BPE tokenizer: pieces of 1 MiB take it 1.7 times as long."""


class Piece(NamedTuple):
    """A part of a document."""

    text: str
    separate: bool
    """A separator belongs before it: true for the first piece of every document but the corpus's first."""
    progress: float
    """Share of the corpus, 0-1, that has been read with this piece."""


def cut(stream: BinaryIO) -> Iterator[bytes]:
    """Yield a document in pieces of at most PIECE_BYTES, the same ones however the stream returns its bytes.

    It is cut where GPT-2's and most later pre-tokenizers break anyway, so that tokens do not depend on the cutting.
    """
    rest = b""
    while block := stream.read(PIECE_BYTES):
        rest += block
        while len(rest) > PIECE_BYTES:
            end = _cut_position(rest)
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _cut_position(text: bytes) -> int:
    """Return the last place, at most PIECE_BYTES in, before a newline (else a space) that follows a word character."""
    for space in (b"\n", b" "):
        end = PIECE_BYTES
        while (end := text.rfind(space, PIECE_BYTES // 2, end)) > 0:
            if text[end - 1 : end].isalnum() or text[end - 1] >= 0x80:
                return end
    end = PIECE_BYTES
    while text[end] & 0xC0 == 0x80 and end > PIECE_BYTES - 4:  # never through a UTF-8 character
        end -= 1
    return end


def limited(pieces: Iterator[Piece], max_bytes: int | None) -> Iterator[Piece]:
    """Yield the first `max_bytes` bytes of text; a character that the limit would cut through is left out."""
    if max_bytes is None:
        yield from pieces
        return
    left = max_bytes
    for piece in pieces:
        text = piece.text.encode()[:left].decode(errors="ignore")
        left -= len(piece.text.encode())
        if text:
            yield Piece(text, piece.separate, max(piece.progress, min(1.0, 1 - left / max_bytes)))
        if left <= 0:
            return
