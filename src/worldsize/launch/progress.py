"""What a run says of itself while it lasts, and how people see it. Torch-free."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, TextIO

PLAIN_LINE_EVERY_S = 5.0


@dataclass(frozen=True)
class Progress:
    """One message of rank 0."""

    stage: str
    """'preparing', 'starting', 'restarting', 'resuming', 'training', 'evaluating', 'probing', 'tracing'."""
    step: int = 0
    num_steps: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


OnProgress = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Show nothing: for ranks other than 0."""


def describe(progress: Progress) -> str:
    """Return the message as one line."""
    words = [progress.stage]
    if progress.stage == "preparing":
        words.append(f"{progress.step} %")
    elif progress.num_steps:
        words.append(f"step {progress.step}/{progress.num_steps}")
    if progress.loss is not None:
        words.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_s is not None:
        words.append(f"{progress.tokens_per_s:,.0f} tokens/s")
    if progress.note:
        words.append(progress.note)
    return "  ".join(words)


class PlainLines:
    """A line now and then, for logs and files: at every change of stage, and every few seconds within one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._said_s = 0.0

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        finished = progress.stage == "training" and progress.step == progress.num_steps
        if progress.stage == self._stage and now_s - self._said_s < PLAIN_LINE_EVERY_S and not finished:
            return
        self._stage, self._said_s = progress.stage, now_s
        print(describe(progress), file=self._stream, flush=True)


class Bar:
    """A progress bar with loss, tokens/s and time left, for terminals."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.fields[stage]:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=Console(file=stream),
            refresh_per_second=2,  # the ranks need the cores
        )
        self._task = self._bar.add_task("", total=None, stage="starting", text="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        loss = f"loss {progress.loss:.4f}  " if progress.loss is not None else ""
        rate = f"{progress.tokens_per_s:,.0f} tokens/s" if progress.tokens_per_s is not None else progress.note
        self._bar.update(
            self._task,
            completed=progress.step,
            total=progress.num_steps or None,
            stage=progress.stage,
            text=loss + rate,
        )


def shown(stream: TextIO | None = None) -> Bar | PlainLines:
    """Return what shows progress on `stream` (standard error if not given): a bar on a terminal, else plain lines."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else PlainLines(stream)
