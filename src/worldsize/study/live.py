"""How a study looks while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worldsize.scaling.wording import long_time_text
from worldsize.study.grid import Planned
from worldsize.study.until import percent_text

if TYPE_CHECKING:
    from worldsize.launch.progress import Progress
    from worldsize.study.records import StudyPlan
    from worldsize.study.runner import RunTiming


class Display:
    """Follows a study's runs and says how long the rest will take, from how long each cell's runs took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.durations_s: dict[str, list[float]] = defaultdict(list)
        self.states: dict[str, str] = {}
        self._todo: list[Planned] = []
        self._order: list[Planned] = []
        self._current: Planned | None = None
        self._progress: Progress | None = None
        self._started_s = 0.0
        self._num_ended = 0
        self._live: Live | None = None

    @contextmanager
    def showing(self, order: Sequence[Planned], todo: Sequence[Planned]) -> Iterator[None]:
        """Show the study from here to the end of the block."""
        self._order, self._todo = list(order), list(todo)
        waiting = {planned.folder for planned in todo}
        self.states = {planned.folder: "waiting" if planned.folder in waiting else "finished" for planned in order}
        num_kept = len(order) - len(todo)
        if num_kept:
            self._say(f"{num_kept} of {len(order)} runs are finished already and are kept.")
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, get_renderable=self._picture, refresh_per_second=2) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def added(self, order: Sequence[Planned], todo: Sequence[Planned], plan: StudyPlan) -> None:
        """Another round begins because intervals are wider than was asked."""
        assert plan.until is not None
        self._order += order
        self._todo += todo
        waiting = {planned.folder for planned in todo}
        self.states |= {each.folder: "waiting" if each.folder in waiting else "finished" for each in order}
        names = ", ".join(each.cell.name for each in order if each.cell.name != each.cell.baseline)
        subject = names or ", ".join(each.cell.name for each in order)
        if todo:
            self._say(
                f"The interval of {subject} is wider than {percent_text(plan.until)}: round {order[0].repeat} of at "
                f"most {plan.num_rounds}."
            )

    def trying(self, order: Sequence[Planned], todo: Sequence[Planned], names: Sequence[str]) -> None:
        """The grid has run; remedies follow for the cells that are slower than their baseline."""
        self._order += order
        self._todo += todo
        waiting = {planned.folder for planned in todo}
        self.states |= {each.folder: "waiting" if each.folder in waiting else "finished" for each in order}
        none = "No cell is slower than its baseline: nothing to remedy."
        self._say(f"Remedies: {', '.join(names)}." if names else none)

    def started(self, planned: Planned) -> None:
        """A run begins."""
        self._current, self._progress, self._started_s = planned, None, time.monotonic()
        self.states[planned.folder] = "running"
        if not self.console.is_terminal:
            left = self.time_left_s()
            estimate = f", about {long_time_text(left)} left" if left else ""
            self._say(
                f"[{self._num_ended + 1}/{len(self._todo)}] {planned.cell.name} repeat {planned.repeat}{estimate}"
            )

    def progressed(self, progress: Progress) -> None:
        """The current run has something to tell."""
        self._progress = progress

    def ended(self, planned: Planned, timing: RunTiming, reason: str | None) -> None:
        """A run is over, with `reason` where it failed."""
        self._current = None
        self._num_ended += 1
        self.states[planned.folder] = timing.outcome
        if timing.outcome == "finished":
            self.durations_s[planned.cell.name].append(timing.wall_s)
        if reason:
            self._say(f"{planned.folder} failed after {long_time_text(timing.wall_s)}: {reason}")
        elif not self.console.is_terminal:
            self._say(f"{planned.folder} finished in {long_time_text(timing.wall_s)}")

    def time_left_s(self) -> float | None:
        """Return the estimate of the time left (s), or None before any run has finished.

        Each run yet to come takes the mean of its cell's finished runs; a cell without any, the mean of all.
        """
        known = [seconds for cell in self.durations_s.values() for seconds in cell]
        if not known:
            return None
        fallback = sum(known) / len(known)
        left = 0.0
        for planned in self._todo[self._num_ended :]:
            own = self.durations_s.get(planned.cell.name)
            left += sum(own) / len(own) if own else fallback
        elapsed = time.monotonic() - self._started_s if self._current else 0.0
        return max(0.0, left - elapsed)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)

    def _picture(self) -> Group:
        table = Table("cell", "repeats", "seconds a run", box=None, pad_edge=False)
        marks = {"finished": "●", "failed": "✗", "running": "◐", "waiting": "·", "stopped": "·"}
        for name in dict.fromkeys(planned.cell.name for planned in self._order):
            runs = [planned for planned in self._order if planned.cell.name == name]
            seconds = self.durations_s.get(name, [])
            took = " ".join(f"{value:.0f}" for value in seconds)
            table.add_row(name, " ".join(marks[self.states[planned.folder]] for planned in runs), took)
        return Group(table, Text(self._line()))

    def _line(self) -> str:
        if self._current is None:
            return ""
        parts = [f"{self._current.cell.name} repeat {self._current.repeat}"]
        progress = self._progress
        if progress:
            parts.append(f"{progress.stage} {progress.step}/{progress.num_steps}")
            parts += [f"loss {progress.loss:.4f}"] if progress.loss is not None else []
            parts += [f"{progress.tokens_per_s:,.0f} tokens/s"] if progress.tokens_per_s is not None else []
        left = self.time_left_s()
        parts.append(f"about {long_time_text(left)} left" if left is not None else "time left is known after one run")
        return ", ".join(parts)
