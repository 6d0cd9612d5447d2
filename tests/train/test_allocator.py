"""The allocator's tuning: fewer page faults where it applies, and nothing at all elsewhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

from worldsize.measure import c_library
from worldsize.train import allocator

CHURN = """
import resource, sys
from worldsize.train.allocator import tune_allocator
if sys.argv[1] == "tuned":
    assert tune_allocator()
import numpy as np
def churn():
    blocks = [np.empty(size) for size in (3_000_000, 6_000_000, 9_000_000)]
    for block in blocks:
        block.fill(1.0)
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Page faults of five rounds that allocate, touch and free 144 MB; big pages off, so that each page counts."""
    return int(subprocess.run([sys.executable, "-c", CHURN, how], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_tuning_reduces_page_faults() -> None:
    untouched, tuned = page_faults("untouched"), page_faults("tuned")
    assert untouched > 100
    assert tuned < untouched / 10


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(c_library.ctypes, "CDLL", no_library)
    assert allocator.tune_allocator() is False
    monkeypatch.setattr(c_library.sys, "platform", "darwin")
    assert allocator.tune_allocator() is False
