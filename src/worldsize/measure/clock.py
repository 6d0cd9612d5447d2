"""Clocks for one rank's steps: marks that cut a step into phases, without synchronising the device inside a window.

A mark books the time since the previous mark under one phase, so the phases of a step cannot overlap and cannot
miss anything; what no mark claimed becomes `other_s`. The exchange of gradients overlaps with backward and needs a
rule of its own, see `mark_exchange` of each clock and docs/explain/exposed-communication.md.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from worldsize.records import PHASES

if TYPE_CHECKING:
    import torch

    from worldsize.measure.pipeline_log import StepNotes


@dataclass
class StepTimes:
    """One step as this rank's clock saw it, seconds."""

    wall_s: float
    phases_s: dict[str, float]
    contention_s: float = 0.0
    """Part of exposed_communication_s before the last exchange began: the compute thread was off its core."""
    notes: StepNotes | None = None
    """Of a pipeline: what the rank computed when. Its phases are parted by them when the window closes."""


@dataclass
class _Marks:
    """Wall seconds booked so far in the step under way."""

    phases_s: dict[str, float] = field(default_factory=dict)

    def book(self, phase: str, seconds: float) -> None:
        self.phases_s[phase] = self.phases_s.get(phase, 0.0) + seconds

    def close(self, wall_s: float) -> dict[str, float]:
        """Return every phase; what no mark claimed is other_s, so that the sum is the wall time."""
        closed = {phase: self.phases_s.get(phase, 0.0) for phase in PHASES}
        closed["other_s"] += wall_s - sum(closed.values())
        return closed


class StepClock(Protocol):
    """What the loop and the strategies call. Every call is made by this rank's own compute thread."""

    measures: bool
    """False: whoever takes extra measurements in a step leaves them out too."""

    def start(self) -> None:
        """Begin a step."""

    def mark(self, phase: str) -> None:
        """Book the time since the last mark under `phase`."""

    def communication_started(self) -> None:
        """Say that a collective of the exchange is about to be issued; called before each of them."""

    def mark_exchange(self) -> None:
        """Book the time since the last mark, in which backward and exchange overlapped, as compute and exposed."""

    def note(self, notes: StepNotes) -> None:
        """Say that this step is a pipeline's, and that what is booked as bubble_s is to be parted by these notes."""

    def stop(self) -> None:
        """End the step."""

    def window(self) -> list[StepTimes]:
        """Synchronise this rank's device, and return the steps since the last window.

        After steps of a pipeline its ranks exchange their notes: every one of them must come here.
        """
        ...


class NullClock:
    """Measures nothing: what a step costs without its clock."""

    measures = False

    def start(self) -> None: ...
    def mark(self, phase: str) -> None: ...
    def communication_started(self) -> None: ...
    def mark_exchange(self) -> None: ...
    def note(self, notes: StepNotes) -> None: ...
    def stop(self) -> None: ...
    def window(self) -> list[StepTimes]:
        return []


class CpuClock:
    """Wall clock (perf_counter) and the compute thread's CPU clock (CLOCK_THREAD_CPUTIME_ID).

    While a collective is in flight, wall time in which the compute thread was not running is exposed
    communication: it either waited for the exchange, or the exchange's own threads held the core (contention).
    On a machine with other busy processes their share is booked here too.
    """

    measures = True

    def __init__(self) -> None:
        self._steps: list[StepTimes] = []
        self._marks = _Marks()
        self._started_s = 0.0
        self._last_mark_s = 0.0
        self._first_issue: tuple[float, float] | None = None
        self._last_issue: tuple[float, float] | None = None
        self._last_mark: tuple[float, float] | None = None
        self._booked_off_core_s = 0.0
        self._booked_before_last_issue_s = 0.0
        self._contention_s = 0.0
        self._notes: StepNotes | None = None

    def start(self) -> None:
        self._marks = _Marks()
        self._notes = None
        self._contention_s = 0.0
        self._started_s = self._last_mark_s = time.perf_counter()

    def mark(self, phase: str) -> None:
        now_s = time.perf_counter()
        if self._first_issue is not None:
            self._keep_from_counting_twice(phase, (now_s, time.thread_time()))
        self._marks.book(phase, now_s - self._last_mark_s)
        self._last_mark_s = now_s

    def _keep_from_counting_twice(self, phase: str, now: tuple[float, float]) -> None:
        """Another collective's wait, booked by its own mark while the exchange is in flight, is not the exchange's."""
        if phase == "exposed_communication_s" and self._last_mark is not None:
            self._booked_off_core_s += _off_core_s(self._last_mark, now)
        self._last_mark = now

    def communication_started(self) -> None:
        self._last_issue = (time.perf_counter(), time.thread_time())
        self._booked_before_last_issue_s = self._booked_off_core_s
        if self._first_issue is None:
            self._first_issue = self._last_issue

    def mark_exchange(self) -> None:
        now_s, cpu_s = time.perf_counter(), time.thread_time()
        if self._first_issue is not None and self._last_issue is not None:
            exposed_s = max(0.0, _off_core_s(self._first_issue, (now_s, cpu_s)) - self._booked_off_core_s)
            contention_s = _off_core_s(self._first_issue, self._last_issue) - self._booked_before_last_issue_s
            self._contention_s += max(0.0, contention_s)
            self._marks.book("exposed_communication_s", exposed_s)
            self._marks.book("compute_s", -exposed_s)
            self._first_issue = self._last_issue = self._last_mark = None
            self._booked_off_core_s = self._booked_before_last_issue_s = 0.0
        self._marks.book("compute_s", now_s - self._last_mark_s)
        self._last_mark_s = now_s

    def note(self, notes: StepNotes) -> None:
        self._notes = notes

    def stop(self) -> None:
        wall_s = time.perf_counter() - self._started_s
        self._steps.append(StepTimes(wall_s, self._marks.close(wall_s), self._contention_s, self._notes))

    def window(self) -> list[StepTimes]:
        steps, self._steps = self._steps, []
        return _settled(steps)


def _settled(steps: list[StepTimes]) -> list[StepTimes]:
    """Part the phases of a pipeline's steps; steps without notes stay as they are."""
    notes = next((step.notes for step in steps if step.notes is not None), None)
    if notes is not None:
        notes.log.settle(steps)
        for step in steps:
            step.notes = None
    return steps


def _off_core_s(begin: tuple[float, float], end: tuple[float, float]) -> float:
    """Wall seconds between two (wall, CPU) readings in which the thread did not run."""
    return max(0.0, (end[0] - begin[0]) - (end[1] - begin[1]))


class CudaClock:
    """CUDA events on the rank's own compute stream, read once a window.

    Exposed communication is the time on the compute stream between the last collective being issued (all gradients
    are computed) and the end of the wait for the exchange.
    """

    measures = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps: list[tuple[list[tuple[str, torch.cuda.Event]], StepNotes | None]] = []
        self._events: list[tuple[str, torch.cuda.Event]] = []
        self._notes: StepNotes | None = None
        self._last_issue: torch.cuda.Event | None = None

    def _record(self) -> torch.cuda.Event:
        import torch

        event = cuda_event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def start(self) -> None:
        self._events = [("start", self._record())]
        self._notes = None

    def mark(self, phase: str) -> None:
        self._events.append((phase, self._record()))

    def communication_started(self) -> None:
        self._last_issue = self._record()

    def mark_exchange(self) -> None:
        if self._last_issue is not None:
            self._events.append(("compute_s", self._last_issue))
            self._events.append(("exposed_communication_s", self._record()))
            self._last_issue = None
        else:
            self.mark("compute_s")

    def note(self, notes: StepNotes) -> None:
        self._notes = notes

    def stop(self) -> None:
        self._events.append(("other_s", self._record()))
        self._steps.append((self._events, self._notes))

    def window(self) -> list[StepTimes]:
        import torch

        torch.cuda.synchronize(self._device)
        steps, self._steps = self._steps, []
        return _settled([_times_of(events, notes) for events, notes in steps])


def _times_of(events: list[tuple[str, torch.cuda.Event]], notes: StepNotes | None = None) -> StepTimes:
    """Turn a step's events, in order, into seconds. The device has been synchronised."""
    marks = _Marks()
    for (_, before), (phase, after) in itertools.pairwise(events):
        marks.book(phase, before.elapsed_time(after) / 1e3)
    wall_s = events[0][1].elapsed_time(events[-1][1]) / 1e3
    return StepTimes(wall_s, marks.close(wall_s), notes=notes)


def cuda_event() -> torch.cuda.Event:
    """Return an event that can time."""
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def clock_for(device: torch.device) -> StepClock:
    """Return the clock that is right for the rank's device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def marks_cost_s(device: torch.device, *, num_marks: int = 6, repeats: int = 200) -> float:
    """Return what one step's clock calls cost the host, seconds, timed alone in a tight loop."""
    clock = clock_for(device)
    began_s = time.perf_counter()
    for _ in range(repeats):
        clock.start()
        clock.communication_started()
        for _ in range(num_marks):
            clock.mark("compute_s")
        clock.mark_exchange()
        clock.stop()
    return (time.perf_counter() - began_s) / repeats
