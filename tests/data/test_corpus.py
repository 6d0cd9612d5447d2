"""Sources: what is read, in which order, under which digest, and what is said when it cannot be."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from worldsize.config.schema import DataConfig
from worldsize.data.corpus import Corpus, open_corpus
from worldsize.data.pieces import PIECE_BYTES
from worldsize.errors import UserError


def documents(corpus: Corpus) -> list[str]:
    found: list[str] = []
    for piece in corpus.pieces():
        if piece.separate or not found:
            found.append("")
        found[-1] += piece.text
    return found


def source(path: Path, **rest: object) -> Corpus:
    return open_corpus(DataConfig(source=str(path), **rest))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "books"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    (folder / "c.txt").write_text("third")
    (folder / "b" / "x.gz").write_bytes(gzip.compress(b"second"))
    (folder / "a.xz").write_bytes(lzma.compress("första".encode()))
    (folder / "empty.txt").write_text("")
    return folder


def test_a_folder_is_its_files_in_sorted_order(folder: Path) -> None:
    assert documents(source(folder)) == ["första", "second", "third"]


def test_a_long_file_is_one_document_and_progress_rises_to_one(tmp_path: Path) -> None:
    text = "".join(f"line {i} of a long file\n" for i in range(20_000))
    (tmp_path / "long.txt").write_text(text)
    (tmp_path / "long.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert len(text) > 3 * PIECE_BYTES
    for name in ("long.txt", "long.txt.gz"):
        corpus = source(tmp_path / name)
        assert documents(corpus) == [text]
        progress = [piece.progress for piece in corpus.pieces()]
        assert progress == sorted(progress)
        assert progress[-1] == 1.0


def test_the_digest_knows_content_and_order_but_not_names(tmp_path: Path) -> None:
    def digest(name: str, *files: tuple[str, bytes]) -> str:
        for file, content in files:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return source(tmp_path / name).digest

    one = digest("one", ("a", b"x"), ("b", b"y"))
    assert digest("renamed", ("c", b"x"), ("d", b"y")) == one
    assert digest("swapped", ("a", b"y"), ("b", b"x")) != one
    assert digest("joined", ("a", b"xy")) != one
    assert digest("other", ("a", b"x"), ("b", b"z")) != one
    packed = gzip.compress(b"x")
    assert digest("packed", ("a.gz", packed)) != digest("misnamed", ("a.txt", packed))


def test_max_bytes_cuts_across_documents(folder: Path) -> None:
    assert documents(source(folder, max_bytes=9)) == ["första", "se"]
    assert documents(source(folder, max_bytes=2)) == ["f"], "ö has two bytes, the second of which does not fit"
    assert documents(source(folder, max_bytes=1000)) == ["första", "second", "third"]


def test_the_standard_library_is_what_find_finds() -> None:
    stdlib = sysconfig.get_path("stdlib")
    corpus = open_corpus(DataConfig(source="python-stdlib"))
    skipped = [
        word for name in ("__pycache__", "site-packages", "dist-packages", ".*") for word in ("-o", "-name", name)
    ]
    command = ["find", stdlib, "(", *skipped[1:], ")", "-prune", "-o", "-name", "*.py", "-type", "f", "-print0"]
    listing = subprocess.run(command, capture_output=True, check=True).stdout
    contents = [Path(os.fsdecode(name)).read_bytes() for name in listing.split(b"\0") if name]
    readable = [content for content in contents if content.decode(errors="ignore").encode() == content and content]
    found = documents(corpus)
    assert sorted(hashlib.sha256(text.encode()).digest() for text in found) == sorted(
        hashlib.sha256(content).digest() for content in readable
    )
    assert sum(map(len, readable)) > 8_000_000


@pytest.mark.parametrize(
    ("given", "hint"),
    [("book", "books"), ("books/d.txt", "c.txt"), ("boks/c.txt", "books"), ("python-stdlb", "'python-stdlib'")],
)
def test_a_missing_path_names_the_nearest(folder: Path, given: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UserError, match=r"no such file or folder.*Did you mean '[^']*") as raised:
        open_corpus(DataConfig(source=given))
    assert hint.strip("'") in str(raised.value).split("Did you mean")[1].split("?")[0]


def test_empty_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="holds no files"):
        source(tmp_path / "nothing")
    with pytest.raises(UserError, match="is empty"):
        source(tmp_path / "empty.txt")


def test_what_is_not_utf8_is_named_with_its_offset(tmp_path: Path) -> None:
    start = b"plain text\n" * 30_000
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_bytes(start + b"caf\xe9 au lait")
    corpus = source(tmp_path)
    with pytest.raises(UserError, match=rf"b\.txt is not UTF-8 text: byte 0xe9 at offset {len(start) + 3}\."):
        documents(corpus)


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    text = os.urandom(4000).hex().encode()
    broken = bytearray(gzip.compress(text))
    broken[100] ^= 0xFF
    cases = {
        "not.gz": b"not packed at all",
        "short.gz": gzip.compress(text)[:-30],
        "short.xz": lzma.compress(text)[:-30],
        "not.xz": b"not packed at all",
        "flipped.gz": bytes(broken),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        corpus = source(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            documents(corpus)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "secret.txt").chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*secret\.txt"):
        source(tmp_path)
