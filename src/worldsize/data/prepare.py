"""A corpus into a memory-mapped file of token ids: made once, in parallel, and shared by every rank and later run.

In the cache folder, NAME being a digest of corpus, tokenizer and format: `NAME.tokens` (little-endian ids, nothing
else), `NAME.tokenizer.json` (where there is one), `NAME.json` (what it is, written last) and `NAME.lock`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from worldsize.config.schema import DataConfig
from worldsize.data.cache import atomic_file, cache_folder, locked
from worldsize.data.corpus import Corpus, open_corpus
from worldsize.data.token_file import TokenFile
from worldsize.data.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer, save_tokenizer, saved_path
from worldsize.data.workers import Tokens, chunks, tokenize, tokenize_in_processes
from worldsize.errors import UserError

OnProgress = Callable[[float, str], None]
"""Called with the share that is done, 0-1, and what is being done."""

FORMAT = 1
"""Part of the cache's names: files of another format are not looked at."""

MIN_CHUNKS_FOR_PROCESSES = 4
"""Less text than this is tokenized before a process has started."""

SPOT_BYTES = 64 * 1024
NUM_SPOTS = 64


def prepare(data: DataConfig, *, on_progress: OnProgress | None = None) -> TokenFile:
    """Return the tokenized corpus, made now or found in the cache.

    Safe to call from several processes at once: one makes it, the others wait and use it. Raises UserError when the
    source, the tokenizer or the cache folder is at fault; nothing half-written stays behind.
    """
    report = on_progress or _say_nothing
    folder = cache_folder(data.cache_dir)
    corpus = open_corpus(data)
    tokenizer = open_tokenizer(data.tokenizer, corpus, folder, lambda: report(0.0, f"training {data.tokenizer}"))
    key = f"{FORMAT} {corpus.digest} {corpus.max_bytes} {tokenizer.digest}"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.tokens"
    found = _read(path)
    if found is None:
        with locked(path.with_suffix(".lock"), lambda: report(0.0, "waiting for another process to tokenize")):
            found = _read(path) or _make(path, corpus, tokenizer, data, report)
    return TokenFile(
        path=path,
        num_tokens=found.num_tokens,
        vocab_size=found.vocab_size,
        dtype=found.dtype,
        digest=found.digest,
        num_train_tokens=found.num_tokens - int(found.num_tokens * data.validation_fraction),
        tokenizer=data.tokenizer,
        source=data.source,
    )


def _say_nothing(_share: float, _doing: str) -> None:
    pass


class _Description(BaseModel):
    """NAME.json: what lies in NAME.tokens."""

    model_config = ConfigDict(extra="forbid")

    num_tokens: int
    vocab_size: int
    dtype: str
    digest: str
    spot_digest: str


def _read(path: Path) -> _Description | None:
    """Return what the cache knows of `path`, or None when it has to be made: absent, unfinished or damaged."""
    try:
        found = _Description.model_validate_json(path.with_suffix(".json").read_bytes())
        whole = path.stat().st_size == found.num_tokens * np.dtype(found.dtype).itemsize
        return found if whole and _spot_digest(path) == found.spot_digest else None
    except (OSError, ValueError, TypeError):
        return None


def _spot_digest(path: Path) -> str:
    """Return the SHA-256 of at most 64 blocks of 64 KiB spread over the file, its ends included, and of its tokenizer.

    Up to 4 MiB that is all of it; beyond, it finds truncation and large damage at a cost that does not grow.
    """
    digest = hashlib.sha256()
    last_block = max(0, path.stat().st_size - SPOT_BYTES)
    with open(path, "rb") as file:
        for position in sorted({last_block * i // (NUM_SPOTS - 1) for i in range(NUM_SPOTS)}):
            file.seek(position)
            digest.update(file.read(SPOT_BYTES))
    if saved_path(path).exists():
        digest.update(saved_path(path).read_bytes())
    return digest.hexdigest()


def _make(path: Path, corpus: Corpus, tokenizer: Tokenizer, data: DataConfig, report: OnProgress) -> _Description:
    """Tokenize the corpus into `path` and describe it. The caller holds the lock."""
    dtype = smallest_dtype(tokenizer.vocab_size)
    digest = hashlib.sha256(dtype.str.encode())
    num_tokens = 0
    work = _tokens(corpus, tokenizer, data.num_workers or _num_cores())
    with atomic_file(path) as file, closing(work):  # closing ends the processes, whatever went wrong
        for tokens in work:
            block = tokens.ids.astype(dtype, copy=False).tobytes()
            file.write(block)
            digest.update(block)
            num_tokens += len(tokens.ids)
            report(tokens.progress, "tokenizing")
        if num_tokens == 0:
            raise UserError(f"data.source={data.source!r} holds no text. Give a file or folder that does.")
    save_tokenizer(tokenizer, path)
    description = _Description(
        num_tokens=num_tokens,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype.name,
        digest=digest.hexdigest(),
        spot_digest=_spot_digest(path),
    )
    with atomic_file(path.with_suffix(".json")) as file:
        file.write(description.model_dump_json(indent=1).encode())
    report(1.0, "tokenizing")
    return description


def _tokens(corpus: Corpus, tokenizer: Tokenizer, num_workers: int) -> Generator[Tokens, None, None]:
    """Yield the corpus's tokens in order; bytes and little text are not worth processes."""
    work = chunks(corpus.pieces())
    first = list(islice(work, MIN_CHUNKS_FOR_PROCESSES))
    work = chain(first, work)
    alone = isinstance(tokenizer, ByteTokenizer) or num_workers == 1 or len(first) < MIN_CHUNKS_FOR_PROCESSES
    if alone:
        return (tokenize(tokenizer, chunk) for chunk in work)
    return tokenize_in_processes(tokenizer, work, num_workers)


def smallest_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    bits = 8 if vocab_size <= 2**8 else 16 if vocab_size <= 2**16 else 32
    return np.dtype(f"<u{bits // 8}")


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
