"""Continuous batching: requests join and leave a running batch between tokens.

One turn of `step` is: waiting requests take free slots; those whose prompts are not yet taken in have chunks of them
taken in, in the order in which they came, as many as make one chunk's tokens together; every request past its prompt
gets one token. So prompts, however long or many, delay the others' next token by one chunk at most.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
    at_s: float
    """When the token was known, by the batcher's clock."""


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

    def __init__(
        self, engine: Engine, *, fixed_shape: bool = False, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`fixed_shape`: every step computes all slots, so that a row's arithmetic never depends on how many others
        there are; otherwise only the slots up to the last one in use. `clock` returns seconds."""
        self.engine = engine
        self._clock = clock
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
        """Take in whole chunks only: where a prompt is cut does not depend on what else is waiting."""
        events: list[Event] = []
        room = self.engine.chunk
        waiting = [(row.index, slot) for slot, row in enumerate(self._rows) if row is not None and row.prefilling]
        for _, slot in sorted(waiting):
            row = self._row(slot)
            while row.prefilling:
                start = row.num_prefilled
                chunk = row.request.prompt[start : start + self.engine.chunk]
                if len(chunk) > room:
                    return events
                logits_V = self.engine.prefill(slot, chunk, start)
                row.num_prefilled += len(chunk)
                room -= len(chunk)
                if row.num_prefilled == len(row.request.prompt):
                    events.append(self._take(slot, row.chooser.choose(logits_V)))
        return events

    def _decode(self) -> list[Event]:
        running = [slot for slot, row in enumerate(self._rows) if row is not None and row.tokens]
        if not running:
            return []
        num_slots = self.engine.num_slots
        rows = self._rows[: num_slots if self._fixed_shape else self.engine.num_rows(running[-1] + 1)]
        tokens_B = torch.tensor([row.tokens[-1] if row and row.tokens else 0 for row in rows])
        positions_B = torch.tensor([row.position if row else 0 for row in rows])
        logits_BV = self.engine.decode(tokens_B, positions_B)
        likeliest = logits_BV.argmax(-1).tolist()
        events = []
        for slot in running:
            row = self._row(slot)
            greedy = row.request.sampling.temperature == 0
            events.append(self._take(slot, likeliest[slot] if greedy else row.chooser.choose(logits_BV[slot])))
        return events

    def _take(self, slot: int, token: int) -> Event:
        """Give a row its next token, and its slot to the next one when it has ended."""
        row = self._row(slot)
        row.tokens.append(token)
        ended = self._ended(row)
        if ended is not None:
            self._rows[slot] = None
        return Event(row.index, token, ended, self._clock())

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
