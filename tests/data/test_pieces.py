"""Pieces: nothing lost, never through a character, the same however the stream returns its bytes."""

from __future__ import annotations

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from worldsize.data.pieces import PIECE_BYTES, Piece, cut, limited

LONG_TEXTS = st.tuples(
    st.text(alphabet="ab\n .é한😀\u3000", min_size=1, max_size=60), st.integers(1, 6 * PIECE_BYTES // 60)
).map(lambda parts: parts[0] * parts[1])


class Dribbling(io.BytesIO):
    """A stream that returns fewer bytes than asked for, as decompressors do."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 1, 7919))


@given(text=LONG_TEXTS)
@settings(max_examples=40, deadline=None)
def test_pieces_are_small_whole_characters_and_sum_to_the_document(text: str) -> None:
    pieces = list(cut(io.BytesIO(text.encode())))
    assert "".join(piece.decode() for piece in pieces) == text
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    assert all(len(piece) > PIECE_BYTES // 2 - 4 for piece in pieces[:-1])
    assert list(cut(Dribbling(text.encode()))) == pieces


def test_a_document_that_fits_is_not_cut() -> None:
    text = b"line\n" * (PIECE_BYTES // 5)
    assert list(cut(io.BytesIO(text))) == [text]


def test_cuts_before_a_newline_that_follows_a_word() -> None:
    text = b"one two, three.\nfour five\n" * 5000
    *firsts, _ = cut(io.BytesIO(text))
    assert len(firsts) >= 1
    for piece in firsts:
        assert piece.endswith(b"five")


def test_cuts_bytes_that_are_no_text_without_hanging() -> None:
    text = b"\x80" * (3 * PIECE_BYTES + 5)
    assert b"".join(cut(io.BytesIO(text))) == text


@given(texts=st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5), max_bytes=st.integers(1, 30))
def test_the_limit_keeps_the_longest_whole_characters_that_fit(texts: list[str], max_bytes: int) -> None:
    pieces = [Piece(text, index > 0, (index + 1) / len(texts)) for index, text in enumerate(texts)]
    kept = "".join(piece.text for piece in limited(iter(pieces), max_bytes))
    whole = "".join(texts)
    assert whole.startswith(kept)
    assert len(kept.encode()) <= max_bytes
    assert kept == whole or len(whole[: len(kept) + 1].encode()) > max_bytes
