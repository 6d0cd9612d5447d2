"""Requests sent to a running batch, and the moments at which their tokens came."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from worldsize.bench.latency import Timeline
from worldsize.bench.workload import Ask
from worldsize.inference.engine import Engine
from worldsize.inference.serve import Batcher, Request


class WallClock:
    """Seconds as they pass."""

    def now_s(self) -> float:
        return time.perf_counter()

    def wait_until(self, at_s: float) -> None:
        time.sleep(max(0.0, at_s - time.perf_counter()))


WALL = WallClock()


class _Load:
    """Sends requests and notes what comes back."""

    def __init__(self, engine: Engine, clock: WallClock) -> None:
        self.clock = clock
        self.batcher = Batcher(engine, clock=clock.now_s)
        self.began_s = clock.now_s()
        self.sent: list[tuple[Ask, float, list[float]]] = []
        """Each request with its arrival and its tokens' moments."""

    def send(self, ask: Ask, arrived_s: float) -> None:
        self.batcher.submit(Request(ask.prompt, ask.num_new_tokens))
        self.sent.append((ask, arrived_s, []))

    def turn(self) -> list[float]:
        """Let the batch take one turn; return when requests ended in it, each with its last token's moment."""
        ends = []
        for event in self.batcher.step():
            self.sent[event.request][2].append(event.at_s)
            if event.ended:
                ends.append(event.at_s)
        return ends

    def result(self) -> tuple[list[Timeline], float]:
        timelines = [Timeline(len(ask.prompt), arrived_s, at_s) for ask, arrived_s, at_s in self.sent]
        return timelines, max(line.token_at_s[-1] for line in timelines) - self.began_s


def closed_loop(
    engine: Engine, asks: Sequence[Ask], concurrency: int, clock: WallClock = WALL
) -> tuple[list[Timeline], float]:
    """Keep `concurrency` requests in flight until all are answered; return their timelines and the seconds in all.

    A request arrives when the one before it in its sender's hands was answered.
    """
    load, waiting = _Load(engine, clock), deque(asks)
    for _ in range(min(concurrency, len(waiting))):
        load.send(waiting.popleft(), load.began_s)
    while load.batcher.busy:
        for ended_s in load.turn():
            if waiting:
                load.send(waiting.popleft(), ended_s)
    return load.result()


def open_loop(engine: Engine, asks: Sequence[Ask], clock: WallClock = WALL) -> tuple[list[Timeline], float]:
    """Send each request at its time, however many are still waiting; return timelines and the seconds in all.

    A request that comes in the middle of a turn is seen at the turn's end; its latency counts from when it came.
    """
    load, coming = _Load(engine, clock), deque(asks)
    while coming or load.batcher.busy:
        while coming and load.began_s + coming[0].arrives_s <= clock.now_s():
            ask = coming.popleft()
            load.send(ask, load.began_s + ask.arrives_s)
        if load.batcher.busy:
            load.turn()
        else:
            clock.wait_until(load.began_s + coming[0].arrives_s)
    return load.result()
