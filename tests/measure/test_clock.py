"""The CPU clock with a clock of our own: every figure is worked out by hand."""

import time

import pytest
import torch

from worldsize.measure import clock as clock_module
from worldsize.measure.clock import CpuClock, marks_cost_s
from worldsize.records import PHASES


class FakeTime:
    """Wall and CPU time that move only when told."""

    def __init__(self) -> None:
        self.wall_s = 100.0
        self.cpu_s = 7.0

    def perf_counter(self) -> float:
        return self.wall_s

    def thread_time(self) -> float:
        return self.cpu_s

    def work(self, seconds: float) -> None:
        self.wall_s += seconds
        self.cpu_s += seconds

    def wait(self, seconds: float) -> None:
        self.wall_s += seconds


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(clock_module, "time", fake)
    return fake


def test_a_step_is_cut_at_its_marks_and_the_rest_is_other(fake: FakeTime) -> None:
    clock = CpuClock()
    clock.start()
    fake.wait(0.5)
    clock.mark("data_wait_s")
    fake.work(2.0)
    clock.mark("compute_s")
    fake.work(0.25)
    clock.mark("optimizer_s")
    fake.work(0.125)
    clock.stop()
    (step,) = clock.window()
    assert step.wall_s == 2.875
    assert step.phases_s == {
        **dict.fromkeys(PHASES, 0.0), "data_wait_s": 0.5, "compute_s": 2.0, "optimizer_s": 0.25, "other_s": 0.125,
    }  # fmt: skip
    assert clock.window() == []


def test_communication_in_flight_is_exposed_only_while_compute_does_not_run(fake: FakeTime) -> None:
    clock = CpuClock()
    clock.start()
    fake.work(1.0)  # backward before the first bucket is ready
    clock.communication_started()
    fake.work(0.5)  # backward hides the exchange
    fake.wait(0.25)  # the exchange's thread holds the core: contention
    clock.communication_started()
    fake.wait(0.75)  # nothing left to compute: waiting
    clock.mark_exchange()
    clock.stop()
    (step,) = clock.window()
    assert step.phases_s["exposed_communication_s"] == 1.0
    assert step.phases_s["compute_s"] == 1.5
    assert step.contention_s == 0.25
    assert step.phases_s["other_s"] == 0.0


def test_without_an_exchange_nothing_is_exposed(fake: FakeTime) -> None:
    clock = CpuClock()
    for _ in range(2):
        clock.start()
        fake.work(1.0)
        fake.wait(1.0)  # the machine was busy: not communication
        clock.mark_exchange()
        clock.stop()
    assert [step.phases_s["exposed_communication_s"] for step in clock.window()] == [0.0, 0.0]


def test_the_real_clock_sees_a_wait_as_exposed_and_work_as_compute() -> None:
    clock = CpuClock()
    clock.start()
    clock.communication_started()
    until_s = time.thread_time() + 0.03
    while time.thread_time() < until_s:
        pass
    time.sleep(0.05)
    clock.mark_exchange()
    clock.stop()
    (step,) = clock.window()
    assert step.phases_s["exposed_communication_s"] >= 0.05
    assert step.phases_s["compute_s"] == pytest.approx(0.03, rel=0.2)
    assert sum(step.phases_s.values()) == pytest.approx(step.wall_s, rel=1e-9)


def test_a_steps_marks_cost_microseconds() -> None:
    assert 0 < marks_cost_s(torch.device("cpu")) < 1e-4


def test_another_collectives_wait_while_the_exchange_is_in_flight_is_booked_once(fake: FakeTime) -> None:
    clock = CpuClock()
    clock.start()
    fake.work(1.0)
    clock.communication_started()
    fake.work(0.5)
    clock.mark("compute_s")
    fake.wait(0.125)  # activations pass along tp
    clock.mark("exposed_communication_s")
    fake.wait(0.25)  # the exchange's thread holds the core: contention
    clock.communication_started()
    fake.work(0.5)
    clock.mark("compute_s")
    fake.wait(2.0)  # along tp again, after the last bucket was issued
    clock.mark("exposed_communication_s")
    fake.wait(0.75)  # for the exchange
    clock.mark_exchange()
    clock.stop()
    (step,) = clock.window()
    assert step.phases_s["exposed_communication_s"] == 0.125 + 0.25 + 2.0 + 0.75
    assert step.phases_s["compute_s"] == 2.0
    assert step.contention_s == 0.25
