"""Continuous batching: requests join and leave a running batch between tokens.

One turn of `step` is: waiting requests take free slots; the request that joined first among those whose prompt is not
yet taken in has one chunk of it taken in; every request past its prompt gets one token. So a long prompt delays the
others' next token by one chunk at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from worldsize.errors import UserError
from worldsize.inference.engine import Engine
from worldsize.inference.sampling import GREEDY, Chooser, Sampling

Ended = Literal["length", "stop", "context"]
"""Why a request ended: it has its tokens, it said the end of text, or the context is full."""


@dataclass(frozen=True)
class Request:
    """What somebody asks for."""

    prompt: Sequence[int]
    num_new_tokens: int
    sampling: Sampling = GREEDY
    stop_token: int | None = None


@dataclass(frozen=True)
class Event:
    """One new token of one request."""

    request: int
    token: int
    ended: Ended | None


@dataclass
class _Row:
    """A request in its slot."""

    index: int
    request: Request
    chooser: Chooser
    num_prefilled: int = 0
    tokens: list[int] = field(default_factory=list)

    @property
    def prefilling(self) -> bool:
        return self.num_prefilled < len(self.request.prompt)

    @property
    def position(self) -> int:
        """Where the next token to go into the cache will stand."""
        return self.num_prefilled + max(0, len(self.tokens) - 1)


class Batcher:
    """Serves requests on an engine's slots. Not for several threads at once."""

    def __init__(self, engine: Engine, *, fixed_shape: bool = False) -> None:
        """`fixed_shape`: every step computes all slots, so that a row's arithmetic never depends on how many others
        there are; otherwise only the slots up to the last one in use."""
        self.engine = engine
        self._fixed_shape = fixed_shape
        self._rows: list[_Row | None] = [None] * engine.num_slots
        self._waiting: deque[_Row] = deque()
        self._num_submitted = 0

    def submit(self, request: Request) -> int:
        """Queue a request; return the number that its events carry. Raises UserError when it can never be served."""
        if not request.prompt:
            raise UserError("a prompt of no tokens cannot be written on. Give --prompt some text.")
        if len(request.prompt) >= self.engine.length:
            raise UserError(
                f"the prompt has {len(request.prompt)} tokens; the context holds {self.engine.length}, and at least "
                "one of them is for the answer. Shorten the prompt."
            )
        index = self._num_submitted
        self._num_submitted += 1
        self._waiting.append(_Row(index, request, Chooser(request.sampling, index)))
        return index

    @property
    def busy(self) -> bool:
        """True while a request waits or runs."""
        return bool(self._waiting) or any(row is not None for row in self._rows)

    def step(self) -> list[Event]:
        """Take one turn; return the new tokens, at most one or two a request."""
        self._admit()
        return self._prefill() + self._decode()

    def run(self) -> Iterator[Event]:
        """Yield events until every request has ended."""
        while self.busy:
            yield from self.step()

    def _admit(self) -> None:
        for slot, row in enumerate(self._rows):
            if row is None and self._waiting:
                self._rows[slot] = self._waiting.popleft()

    def _prefill(self) -> list[Event]:
        waiting = [(row.index, slot) for slot, row in enumerate(self._rows) if row is not None and row.prefilling]
        if not waiting:
            return []
        slot = min(waiting)[1]
        row = self._row(slot)
        start = row.num_prefilled
        chunk = row.request.prompt[start : start + self.engine.chunk]
        logits_V = self.engine.prefill(slot, chunk, start)
        row.num_prefilled += len(chunk)
        return [] if row.prefilling else [self._take(slot, logits_V)]

    def _decode(self) -> list[Event]:
        running = [slot for slot, row in enumerate(self._rows) if row is not None and row.tokens]
        if not running:
            return []
        num_rows = self.engine.num_slots if self._fixed_shape else running[-1] + 1
        rows = self._rows[:num_rows]
        tokens_B = torch.tensor([row.tokens[-1] if row and row.tokens else 0 for row in rows])
        positions_B = torch.tensor([row.position if row else 0 for row in rows])
        logits_BV = self.engine.decode(tokens_B, positions_B)
        return [self._take(slot, logits_BV[slot]) for slot in running]

    def _take(self, slot: int, logits_V: torch.Tensor) -> Event:
        """Give a row its next token, and its slot to the next one when it has ended."""
        row = self._row(slot)
        token = row.chooser.choose(logits_V)
        row.tokens.append(token)
        ended = self._ended(row)
        if ended is not None:
            self._rows[slot] = None
        return Event(row.index, token, ended)

    def _ended(self, row: _Row) -> Ended | None:
        if row.tokens[-1] == row.request.stop_token:
            return "stop"
        if len(row.tokens) >= row.request.num_new_tokens:
            return "length"
        return "context" if row.position >= self.engine.length else None

    def _row(self, slot: int) -> _Row:
        row = self._rows[slot]
        assert row is not None
        return row
