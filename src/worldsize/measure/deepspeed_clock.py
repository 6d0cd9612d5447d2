"""When DeepSpeed communicates, for the clock: every collective of its engine goes through one backend object.

On a CPU a collective blocks the compute thread until it has ended, or until it is waited for, so the wall time in it is
exposed communication. On CUDA collectives run on streams of their own: what comes after the last of backward is
exposed, and stage 3's waits for weights before that are booked as compute.

Pins DeepSpeed 0.19's `deepspeed.comm.comm.cdb` and the names of its methods (tests/conformance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from worldsize.measure.clock import StepClock

COLLECTIVES = ("all_reduce", "all_gather_into_tensor", "all_gather", "reduce_scatter_tensor", "reduce_scatter",
               "reduce", "broadcast")  # fmt: skip


class Marks:
    """Marks a step's collectives on its clock; outside a step there is none."""

    def __init__(self, device: torch.device) -> None:
        self.phase = "compute_s"
        """What the time up to a collective is booked under."""
        self._blocks = device.type == "cpu"
        self._clock: StepClock | None = None

    @contextmanager
    def on(self, clock: StepClock) -> Iterator[None]:
        """Mark on `clock` within."""
        self._clock = clock
        try:
            yield
        finally:
            self._clock = None

    def began(self) -> None:
        if self._clock is None:
            return
        if self._blocks:
            self._clock.mark(self.phase)
        elif self.phase == "compute_s":
            with torch.cuda.stream(torch.cuda.default_stream()):
                self._clock.communication_started()

    def ended(self) -> None:
        if self._clock is not None and self._blocks:
            self._clock.mark("exposed_communication_s")

    def around(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        """Return the collective with its marks; of one that is not waited for at once, the wait is marked too."""

        def marked(*args: Any, **kwargs: Any) -> Any:
            self.began()
            work = collective(*args, **kwargs)
            self.ended()
            return work if work is None or not self._blocks else _Awaited(work, self)

        return marked


class _Awaited:
    """A collective under way whose wait is marked."""

    def __init__(self, work: Any, marks: Marks) -> None:
        self._work = work
        self._marks = marks

    def wait(self, *args: Any) -> Any:
        self._marks.began()
        done = self._work.wait(*args)
        self._marks.ended()
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def marks_on(backend: Any, device: torch.device) -> Marks:
    """Return the marks of a process's one DeepSpeed backend, put around its collectives on the first call."""
    marks = getattr(backend, "worldsize_marks", None)
    if marks is None:
        marks = backend.worldsize_marks = Marks(device)
        for name in COLLECTIVES:
            setattr(backend, name, marks.around(getattr(backend, name)))
    assert isinstance(marks, Marks)
    return marks
