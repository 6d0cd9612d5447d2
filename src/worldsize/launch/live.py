"""How a launch looks while it is followed: a live table on a terminal, a line a change elsewhere. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from worldsize.launch.records import JobRecord
from worldsize.run_folder import is_finished, steps_name


class Queue:
    """Shows the jobs of a launch."""

    def __init__(self, console: Console, out: Path) -> None:
        self.console = console
        self.out = out
        self._records: list[JobRecord] = []
        self._said: dict[str, str] = {}

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the jobs from here to the end of the block."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, get_renderable=self.table, refresh_per_second=1):
            yield

    def changed(self, records: Sequence[JobRecord]) -> None:
        """Take in the jobs' newest state."""
        self._records = list(records)
        if self.console.is_terminal:
            return
        for record in records:
            line = self.line(record)
            if self._said.get(record.name) != line:
                self._said[record.name] = line
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def line(self, record: JobRecord) -> str:
        """Return a job's state as one line."""
        parts = [f"{record.name}: {record.state}"]
        parts += [f"job {record.id}"] if record.id else []
        parts += [f"on {record.nodes}"] if record.nodes else []
        parts += [f"restarted {record.num_restarts}×"] if record.num_restarts else []
        parts += [f"{self._num_finished(record)} of {len(record.runs)} runs"]
        if record.reason and record.reason != "None":
            parts.append(record.reason.splitlines()[0])
        return ", ".join(parts)

    def table(self) -> Table:
        """Return all jobs as a table."""
        table = Table("job", "id", "nodes × devices", "state", "where", "runs", "step", "why", box=None, pad_edge=False)
        for record in self._records:
            restarts = f" ({record.num_restarts + 1}. start)" if record.num_restarts else ""
            why = (record.reason or "").splitlines()
            table.add_row(
                record.name, record.id or "", f"{record.num_nodes} × {record.ranks_per_node}", record.state + restarts,
                record.nodes or "", f"{self._num_finished(record)}/{len(record.runs)}", self._step(record),
                why[0] if why and why[0] != "None" else "",
            )  # fmt: skip
        return table

    def _num_finished(self, record: JobRecord) -> int:
        return sum(is_finished(self.out / run) for run in record.runs)

    def _step(self, record: JobRecord) -> str:
        """Return how many steps the job's current run has written, where its folder can be seen from here."""
        for run in record.runs:
            rows = self.out / run / steps_name(0)
            if record.state == "running" and rows.is_file() and not is_finished(self.out / run):
                return str(rows.read_text("utf-8", errors="replace").count("\n"))
        return ""
