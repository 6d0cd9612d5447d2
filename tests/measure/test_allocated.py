"""Bytes allocated within a step: what is in use at one time, not what was asked for in all, nor what is kept."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from worldsize.measure.allocated import INTERVAL_S, Allocated

CPU = torch.device("cpu")
MIB = 2**20
NEAR = 2 * MIB
"""What Python and torch allocate beside."""


def filled(mebibytes: int) -> torch.Tensor:
    """Return a tensor of so many MiB, after as long as a reading of the memory in use takes to come at most."""
    tensor = torch.ones(mebibytes * MIB, dtype=torch.uint8)
    time.sleep(400 * INTERVAL_S)  # on a loaded machine
    return tensor


def test_what_is_freed_before_the_next_comes_counts_once() -> None:
    def steps() -> None:
        for _ in range(3):
            filled(64)

    assert Allocated(CPU).most_in(steps) == pytest.approx(64 * MIB, abs=NEAR)


def test_what_is_alive_together_adds_up_and_what_was_there_before_does_not_count() -> None:
    before = filled(32)
    allocated = Allocated(CPU)
    kept = filled(16)

    def step() -> None:
        first = filled(64)
        second = filled(8)
        del first, second
        filled(4)

    assert allocated.most_in(step) == pytest.approx((16 + 64 + 8) * MIB, abs=NEAR)
    assert allocated.most_in(lambda: None) == pytest.approx(16 * MIB, abs=NEAR)
    assert before.numel() > kept.numel()


def test_where_nothing_counts_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ran = []
    assert Allocated(CPU).most_in(lambda: ran.append(1)) is None
    assert not ran
