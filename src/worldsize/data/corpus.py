"""Text and where it comes from: files, folders, Python's own standard library, Hugging Face data sets.

A corpus is documents (a file, or a row of a data set) in a fixed order, read lazily.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from worldsize.config.schema import DataConfig
from worldsize.data.pieces import Piece, cut, limited
from worldsize.data.rows import hub_corpus, is_saved_dataset, saved_corpus
from worldsize.errors import UserError, nearest

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}


class Corpus(Protocol):
    """Documents in a fixed order."""

    @property
    def digest(self) -> str:
        """Names the content, its order included: SHA-256 of the stored bytes, or of a data set's fingerprint."""
        ...

    @property
    def max_bytes(self) -> int | None:
        """`pieces` ends after so many bytes of text."""
        ...

    def pieces(self) -> Iterator[Piece]:
        """Yield the documents piece by piece, empty ones left out. Raises UserError on what is not text."""
        ...


def open_corpus(data: DataConfig) -> Corpus:
    """Return the corpus that `data.source` names. Local files are read once, to know their digest.

    Raises UserError when it does not exist, cannot be read, or holds nothing.
    """
    if data.source == "python-stdlib":
        return _standard_library(data.max_bytes)
    if data.source.startswith("hub:"):
        return hub_corpus(data)
    path = Path(data.source).expanduser()
    if not path.exists():
        raise missing(data.source, path)
    if is_saved_dataset(path):
        return saved_corpus(path, data)
    files = _files_below(path) if path.is_dir() else [path]
    return _file_corpus(files, data.max_bytes, data.source)


def missing(source: str, path: Path) -> UserError:
    """Return the error for a path that does not exist, with the nearest name where the path first goes wrong."""
    parent, name = path.parent, path.name
    while not parent.is_dir() and parent != parent.parent:
        parent, name = parent.parent, parent.name
    readable = parent.is_dir() and os.access(parent, os.R_OK)
    siblings = [entry.name for entry in parent.iterdir()] if readable else []
    close = nearest(name, [*siblings, "python-stdlib"])
    found = None if close is None else str(parent / close) if close in siblings else close
    hint = f" Did you mean {found!r}?" if found else ""
    return UserError(
        f"data.source={source!r}: there is no such file or folder.{hint} Give a text file, a folder, a .gz or .xz "
        "file, 'python-stdlib', or 'hub:NAME' for a data set of the Hugging Face hub."
    )


@dataclass(frozen=True)
class FileCorpus:
    """One document a file."""

    files: tuple[Path, ...]
    digest: str
    max_bytes: int | None

    def pieces(self) -> Iterator[Piece]:
        return limited(self._pieces(), self.max_bytes)

    def _pieces(self) -> Iterator[Piece]:
        total = sum(file.stat().st_size for file in self.files)
        before, first = 0, True
        for file in self.files:
            starts = True
            for text, offset in _texts(file):
                yield Piece(text, starts and not first, min(1.0, (before + offset) / total))
                starts = first = False
            before += file.stat().st_size


def _file_corpus(files: Sequence[Path], max_bytes: int | None, source: str) -> FileCorpus:
    digest = hashlib.sha256()
    num_bytes = 0
    for file in files:
        with reading(file), open(file, "rb") as stream:
            digest.update(file.suffix.encode() if file.suffix in (".gz", ".xz") else b"text")
            digest.update(hashlib.file_digest(stream, "sha256").digest())
            num_bytes += stream.tell()
    if num_bytes == 0:
        what = "is empty" if files else "holds no files"
        raise UserError(f"data.source={source!r} {what}. Give a file or folder that holds text.")
    return FileCorpus(tuple(files), digest.hexdigest(), max_bytes)


def _files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted by relative path; hidden ones, caches and packages are left out."""
    files = []
    for parent, folders, names in os.walk(folder, onerror=_fail_to_list):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted((file for file in files if file.is_file()), key=lambda file: file.parts)


def _fail_to_list(error: OSError) -> None:
    raise UserError(f"cannot list {error.filename}: {error.strerror}.") from error


def _standard_library(max_bytes: int | None) -> FileCorpus:
    """Return the .py files of this Python's standard library, tests included, without those that are not UTF-8."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [file for file in _files_below(folder) if file.suffix == ".py" and _is_utf8(file)]
    return _file_corpus(files, max_bytes, "python-stdlib")


def _is_utf8(file: Path) -> bool:
    try:
        with reading(file):
            file.read_bytes().decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what can go wrong while reading `file` into a UserError."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{file} is damaged or not what its name says: {error}. Fetch it again.") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}.") from error


def _texts(file: Path) -> Iterator[tuple[str, int]]:
    """Yield a file's text in pieces, with how far into the stored file each one ends."""
    position = 0
    with reading(file), open(file, "rb") as stored:
        for piece in cut(decompressed(file, stored)):
            try:
                text = piece.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file} is not UTF-8 text: byte 0x{piece[error.start]:02x} at offset {position + error.start}. "
                    "Convert it (iconv -f ENCODING -t UTF-8), or leave it out of the folder."
                ) from error
            yield text, stored.tell()
            position += len(piece)


def decompressed(file: Path, stored: BinaryIO) -> BinaryIO:
    if file.suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stored))
    return cast(BinaryIO, lzma.LZMAFile(stored)) if file.suffix == ".xz" else stored
