"""Tokenizing in several processes: each gets a chunk of text over a pipe and returns its ids, in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import cycle
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from worldsize.data.pieces import Piece
from worldsize.data.tokenizer import Tokenizer
from worldsize.errors import UserError

CHUNK_BYTES = 1024 * 1024
"""Characters handed to a process at once: a fifth of a second of BPE."""


class Tokens(NamedTuple):
    """The ids of one chunk."""

    ids: np.ndarray
    progress: float
    """Share of the corpus, 0-1, that is done with this chunk."""


def chunks(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Group pieces to about CHUNK_BYTES."""
    chunk: list[Piece] = []
    size = 0
    for piece in pieces:
        chunk.append(piece)
        size += len(piece.text)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def tokenize(tokenizer: Tokenizer, chunk: list[Piece]) -> Tokens:
    """Return a chunk's ids, a separator before each new document: its end-of-text token, else a newline."""
    separator = np.array([tokenizer.end_of_text] if tokenizer.end_of_text is not None else tokenizer.encode("\n"))
    parts: list[np.ndarray] = []
    for piece, ids in zip(chunk, tokenizer.encode_batch([piece.text for piece in chunk]), strict=True):
        parts += [separator.astype(ids.dtype), ids] if piece.separate else [ids]
    return Tokens(np.concatenate(parts), chunk[-1].progress)


def tokenize_in_processes(
    tokenizer: Tokenizer, work: Iterator[list[Piece]], num_workers: int
) -> Generator[Tokens, None, None]:
    """Yield the tokens of each chunk in order, `num_workers` chunks in flight.

    One chunk a process at a time: with a second one under way both ends could wait for the other to read. Closing
    the iterator (an error, Ctrl-C) ends the processes; should this process be killed, their pipes end them.
    """
    with _processes(tokenizer, num_workers) as connections:
        busy: deque[Connection] = deque()
        for connection, chunk in zip(cycle(connections), work, strict=False):
            if len(busy) == num_workers:
                yield _receive(busy.popleft())
            _send(connection, chunk)
            busy.append(connection)
        while busy:
            yield _receive(busy.popleft())


@contextmanager
def _processes(tokenizer: Tokenizer, num_workers: int) -> Iterator[list[Connection]]:
    spawn = multiprocessing.get_context("spawn")  # a forked copy of a process with threads can hang
    pipes = [spawn.Pipe() for _ in range(num_workers)]
    processes = [spawn.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes]
    try:
        for process, (_, theirs) in zip(processes, pipes, strict=True):
            process.start()
            theirs.close()
        for ours, _ in pipes:  # after all have started: sending waits until the other end reads
            _send(ours, tokenizer)
        yield [ours for ours, _ in pipes]
    finally:
        for process, (ours, _) in zip(processes, pipes, strict=True):
            ours.close()
            if process.pid is not None:
                process.terminate()
                process.join()


def _send(connection: Connection, work: Tokenizer | list[Piece]) -> None:
    try:
        connection.send(work)
    except OSError as error:
        raise _died() from error


def _receive(connection: Connection) -> Tokens:
    try:
        result = connection.recv()
    except (EOFError, OSError) as error:
        raise _died() from error
    if isinstance(result, Exception):
        raise result
    tokens: Tokens = result
    return tokens


def _died() -> UserError:
    return UserError(
        "a process that tokenizes ended before its work was done (out of memory, or a script that starts runs without "
        "`if __name__ == '__main__':`). Try fewer: data.num_workers=1."
    )


def _serve(connection: Connection) -> None:
    """Tokenize what comes until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends us
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        tokenizer: Tokenizer = connection.recv()
        while True:
            chunk = connection.recv()
            try:
                connection.send(tokenize(tokenizer, chunk))
            except Exception as error:  # raised again in the parent
                connection.send(error)
    except (EOFError, OSError):
        return
