"""Tokenizing in several processes: each gets a chunk of text over a pipe and returns its ids, in order."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
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
    """Start the processes and yield a connection to each.

    They are started afresh: a forked copy of a process with threads can hang, and multiprocessing's own spawning runs
    the caller's main script again. In a process group of their own, Ctrl-C does not reach them; this process ends them.
    """
    connections: list[Connection] = []
    processes: list[subprocess.Popen[bytes]] = []
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    try:
        for _ in range(num_workers):
            ours, theirs = multiprocessing.Pipe()
            connections.append(ours)
            with theirs:
                handle = theirs.fileno()
                command = [sys.executable, "-c", f"from worldsize.data.workers import serve; serve({handle})"]
                processes.append(subprocess.Popen(command, env=environment, pass_fds=[handle], process_group=0))
        for ours in connections:  # after all have started: sending waits until the other end reads
            _send(ours, tokenizer)
        yield connections
    finally:
        for ours in connections:
            ours.close()
        for process in processes:
            process.terminate()
            process.wait()


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
        "a process that tokenizes ended before its work was done (out of memory, or killed). "
        "Try fewer: data.num_workers=1."
    )


def serve(handle: int) -> None:
    """Tokenize what comes over the pipe `handle` until its other end closes. The whole life of a process."""
    connection = Connection(handle)
    try:
        tokenizer: Tokenizer = connection.recv()
        while True:
            chunk = connection.recv()
            try:
                connection.send(tokenize(tokenizer, chunk))
            except Exception as error:  # raised again where the work came from
                connection.send(error)
    except (EOFError, OSError):
        return
