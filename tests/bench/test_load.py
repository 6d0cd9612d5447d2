"""Loads on a simulated clock: an engine whose steps take known times, and moments worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from worldsize.bench.latency import serving
from worldsize.bench.load import WallClock, closed_loop, open_loop
from worldsize.bench.records import Objective
from worldsize.bench.workload import Ask
from worldsize.inference.engine import Engine


class Simulated(WallClock):
    """Time passes when somebody waits or an engine works."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def now_s(self) -> float:
        return self.at_s

    def wait_until(self, at_s: float) -> None:
        assert at_s >= self.at_s
        self.at_s = at_s


class TimedEngine:
    """A prompt's token takes 1 s, a step of decoding 10 s however many rows it has."""

    length = 64
    num_slots = 2
    chunk = 4

    def __init__(self, clock: Simulated) -> None:
        self.clock = clock

    def num_rows(self, num_used: int) -> int:
        return num_used

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Tensor:
        self.clock.at_s += len(tokens)
        return torch.zeros(3)

    def decode(self, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        self.clock.at_s += 10
        return torch.zeros(len(tokens_B), 3)


def on_simulated_time() -> tuple[Engine, Simulated]:
    clock = Simulated()
    return cast(Engine, cast(Any, TimedEngine(clock))), clock


def test_one_at_a_time() -> None:
    """2 s of prompt and two steps, then 6 s of prompt in two chunks and one step."""
    engine, clock = on_simulated_time()
    timelines, duration_s = closed_loop(engine, [Ask([1] * 2, 3), Ask([1] * 6, 2)], 1, clock)
    first, second = timelines
    assert (first.arrived_s, list(first.token_at_s)) == (100, [102, 112, 122])
    assert (second.arrived_s, list(second.token_at_s)) == (122, [128, 138])
    assert duration_s == 38


def test_two_at_a_time_share_steps_and_a_prompt_delays_by_a_chunk() -> None:
    """The long prompt (4 + 2 s) does not fit beside the short one (2 s) in the first turn's four tokens."""
    engine, clock = on_simulated_time()
    timelines, duration_s = closed_loop(engine, [Ask([1] * 2, 3), Ask([1] * 6, 2)], 2, clock)
    first, second = timelines
    # turn 1: prompt to 102, step to 112; turn 2: chunk to 116, step to 126; turn 3: chunk to 128, step to 138
    assert list(first.token_at_s) == [102, 112, 126]
    assert list(second.token_at_s) == [128, 138]
    assert [line.arrived_s for line in timelines] == [100, 100]
    found = serving(timelines, duration_s, Objective(ttft_ms=10_000))
    assert found.duration_s == 38
    assert found.ttft_ms.values == [2000, 28_000]
    assert found.itl_ms is not None
    assert found.itl_ms.values == [10_000, 14_000, 10_000]
    assert found.tpot_ms is not None
    assert found.tpot_ms.values == [12_000, 10_000]
    assert found.request_goodput_per_s == pytest.approx(1 / 38)


def test_short_prompts_share_a_turn() -> None:
    engine, clock = on_simulated_time()
    timelines, _ = closed_loop(engine, [Ask([1] * 2, 2), Ask([1] * 2, 2)], 2, clock)
    assert [list(line.token_at_s) for line in timelines] == [[102, 114], [104, 114]]


def test_requests_that_arrive_when_they_like() -> None:
    """The second comes in the middle of the first's step and waits for its end; the third finds nobody."""
    engine, clock = on_simulated_time()
    coming = [Ask([1] * 2, 2, 0.0), Ask([1] * 3, 1, 5.0), Ask([1], 1, 50.0)]
    timelines, duration_s = open_loop(engine, coming, clock)
    first, second, third = timelines
    assert list(first.token_at_s) == [102, 112]
    assert (second.arrived_s, list(second.token_at_s)) == (105, [115])
    assert second.ttft_ms == 10_000, "counted from its arrival, not from when the server looked"
    assert (third.arrived_s, list(third.token_at_s)) == (150, [151])
    assert duration_s == 51


def test_a_full_house_makes_the_third_wait() -> None:
    engine, clock = on_simulated_time()
    timelines, _ = open_loop(engine, [Ask([1], 2), Ask([1], 2), Ask([1], 1)], clock)
    assert [line.token_at_s[0] for line in timelines] == [101, 102, 113]
