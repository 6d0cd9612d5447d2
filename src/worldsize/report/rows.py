"""The evidence as tables of values: what HTML, Markdown and CSV all print. Torch-free.

A Value keeps the stored number beside its text, and where there is no number, the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from worldsize.records import PHASES, Measured
from worldsize.report import labels
from worldsize.report.numbers import (
    PERCENT,
    Unit,
    bytes_unit,
    decimals,
    places_for,
    show,
    show_interval,
    time_unit,
)
from worldsize.study.records import CellResult, StudyResult


@dataclass(frozen=True)
class Value:
    """One entry of a table. `raw` is in the stored unit; without a number, `text` says so and `because` says why."""

    text: str
    raw: float | None = None
    interval: str = ""
    because: str = ""
    mark: str = ""

    @property
    def note(self) -> str:
        """The reason as a sentence, for a note under the table."""
        return f"{self.text[:1].upper()}{self.text[1:]}: because {self.because}."


@dataclass(frozen=True)
class Column:
    """A column's heading, its unit and its entries from the top down. `key` names the stored quantity."""

    key: str
    title: str
    unit: str
    values: list[Value]
    numeric: bool = True
    is_key: bool = False
    """Whether it says which cell a row is, rather than something about it."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length; a row is a cell of the study."""

    caption: str
    columns: list[Column] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """The reasons of absent numbers, each once, in the order in which a reader meets them."""
        return list(dict.fromkeys(value.note for row in self.rows for _, value in row if value.because))

    @property
    def rows(self) -> list[list[tuple[Column, Value]]]:
        return [[(column, column.values[row]) for column in self.columns] for row in range(len(self.columns[0].values))]


Pick = Callable[[CellResult], "Measured | float | None"]
Because = Callable[[CellResult], str]


def value(number: Measured | float | None, unit: Unit, because: str, places: int) -> Value:
    """Return a table's entry for a stored number, or for its absence."""
    if number is None:
        return Value("not known", because=because.rstrip("."))
    if isinstance(number, Measured):
        return Value(show(number.median * unit.factor, places), number.median, show_interval(number, unit, places))
    return Value("0" if number == 0 else show(number * unit.factor, places), float(number))


def _places(number: Measured | float, unit: Unit) -> int:
    return places_for(number, unit) if isinstance(number, Measured) else decimals(number * unit.factor)


def column(
    cells: Sequence[CellResult],
    key: str,
    title: str,
    pick: Pick,
    unit: Unit,
    because: Because,
) -> Column:
    """Return one quantity of every cell, in one unit and with equally many places, so that points stand in line."""
    numbers = [pick(cell) for cell in cells]
    places = max((_places(number, unit) for number in numbers if number is not None), default=0)
    entries = [value(number, unit, because(cell), places) for number, cell in zip(numbers, cells, strict=True)]
    return Column(key, title, unit.name, entries)


def comparison(cells: Sequence[CellResult], key: str, pick: Pick, unit: Unit, because: Because) -> Column:
    """Return a quantity that compares a cell with its baseline: it can be refused, and printed by override."""
    entries = column(cells, key, key, pick, unit, because).values
    for row, cell in enumerate(cells):
        if cell.is_baseline and entries[row].because and cell.step_time_s:
            entries[row] = Value("baseline")
        elif cell.overridden and not entries[row].because:
            entries[row] = replace(entries[row], mark="†")
        elif labels.is_refused(cell) and entries[row].because:
            entries[row] = replace(entries[row], text="refused")
    return Column(key, key, unit.name, entries)


def words(key: str, title: str, texts: Sequence[str]) -> Column:
    """Return a column of text."""
    return Column(key, title, "", [Value(labels.plain(text)) for text in texts], numeric=False)


def scaling(result: StudyResult) -> Table:
    """Time, rate, speedup, efficiency and loss of every cell."""
    cells = result.cells
    unit_s = time_unit(cell.step_time_s.median for cell in cells if cell.step_time_s)
    columns = [*_identity(result), words("strategy", "strategy", [cell.strategy or "not run" for cell in cells])]
    columns += [
        column(cells, "step_time_s", "step time", lambda c: c.step_time_s, unit_s, labels.not_measured),
        column(cells, "tokens_per_s", "throughput", lambda c: c.tokens_per_s, Unit(1, "tokens/s"), labels.not_measured),
        comparison(cells, "speedup", lambda c: c.speedup, Unit(1, "×"), lambda c: labels.no_speedup(result, c)),
        comparison(cells, "efficiency", lambda c: c.efficiency, PERCENT, labels.not_compared),
        column(
            cells, "final_loss", "final loss", lambda c: c.final_loss, Unit(1, "nats/token"), _unless_run("no loss")
        ),
        Column("repeats", "repeats", "", [_repeats(cell) for cell in cells]),
    ]
    return Table("Time, speedup and loss of every cell: medians, with 95 % bootstrap intervals beneath.", columns)


def phases(result: StudyResult) -> Table:
    """Seconds of every phase, their sum, and compute to exposed communication."""
    cells = result.cells
    unit = time_unit(sum(cell.phases_s.values()) for cell in cells)
    because = _unless_run("phases were not recorded")
    columns = _identity(result)
    for phase in PHASES:
        if any(cell.phases_s.get(phase) for cell in cells):
            title = phase.removesuffix("_s").replace("_", " ")
            columns.append(column(cells, phase, title, lambda c, p=phase: c.phases_s.get(p), unit, because))  # type: ignore[misc]
    columns += [
        column(cells, "phases_sum_s", "sum", lambda c: sum(c.phases_s.values()) or None, unit, because),
        column(
            cells, "exposed_communication_share", "exposed", lambda c: c.exposed_communication_share, PERCENT, because
        ),
        column(
            cells,
            "compute_to_communication",
            "compute / exposed",
            lambda c: c.compute_to_communication,
            Unit(1, "×"),
            _unless_run("nothing is exposed to compare with"),
        ),
    ]
    return Table("Where a step's time goes: mean over ranks; the phases sum to the step.", columns)


def communication(result: StudyResult) -> Table | None:
    """Exposed communication by every measure; None when no cell has more than one device."""
    cells = [cell for cell in result.cells if cell.world_size > 1]
    if not cells:
        return None
    measures = {
        "clock_s": "clock",
        "ablation_s": "ablation",
        "trace_s": "trace",
        "contention_s": "contention",
        "copies_s": "copies",
    }
    known = [exposed for cell in cells if (exposed := cell.exposed_communication)]
    unit = time_unit(exposed.clock_s.median for exposed in known)
    for part in ("contention_s", "copies_s"):  # parts that explain a disagreement: shown where they were measured
        if not any(getattr(exposed, part) for exposed in known):
            del measures[part]
    columns = _identity(result, cells)
    for key, title in measures.items():
        because = _unless_run(f"{title} was not measured in this study")
        columns.append(
            column(cells, key, title, lambda c, k=key: getattr(c.exposed_communication, k, None), unit, because)  # type: ignore[misc]
        )
    notes = [(cell.exposed_communication and cell.exposed_communication.disagreement) or "" for cell in cells]
    if any(notes):
        columns.append(words("disagreement", "remark", notes))
    return Table("Exposed communication of one step, measured in independent ways; mean over ranks.", columns)


def devices(result: StudyResult) -> Table:
    """Memory, use of the device's arithmetic, and what measuring cost."""
    cells = result.cells
    memory = bytes_unit(cell.peak_memory_bytes for cell in cells if cell.peak_memory_bytes)
    peak = _unless_run("the device's peak is not known")
    columns = [
        *_identity(result),
        column(
            cells,
            "peak_memory_bytes",
            "peak memory",
            lambda c: c.peak_memory_bytes,
            memory,
            _unless_run("not recorded"),
        ),
        column(cells, "mfu", "MFU", lambda c: c.mfu, PERCENT, peak),
        column(
            cells,
            "mfu_vs_measured_matmul",
            "of measured matmul",
            lambda c: c.mfu_vs_measured_matmul,
            PERCENT,
            _unless_run("no matmul rate was measured"),
        ),
        column(
            cells,
            "measuring_cost_share",
            "cost of measuring",
            lambda c: c.measuring_cost_share,
            PERCENT,
            _unless_run("it was not probed"),
        ),
    ]
    return Table("Use of the devices: the rank that needs most memory; FLOP of the model, causal attention.", columns)


def tables(result: StudyResult) -> list[Table]:
    """Return the tables of the evidence, in the order in which they are read."""
    if not result.cells:
        return []
    return [table for table in (scaling(result), phases(result), communication(result), devices(result)) if table]


def _identity(result: StudyResult, cells: Sequence[CellResult] | None = None) -> list[Column]:
    """Return the columns that say which cell a row is: the name when words alone would not."""
    chosen = result.cells if cells is None else cells
    columns = [
        Column("world_size", "devices", "", [Value(f"{c.world_size:,}", c.world_size) for c in chosen]),
        Column("global_batch", "global batch", "", [Value(f"{c.global_batch:,}", c.global_batch) for c in chosen]),
    ]
    for key in dict.fromkeys(key for cell in result.cells for key in cell.vary):
        columns.append(words(key, labels.plain(key), [str(cell.vary.get(key, "")) for cell in chosen]))
    if len({labels.describe(cell) for cell in result.cells}) < len(result.cells):
        columns.insert(0, words("name", "cell", [cell.name for cell in chosen]))
    return [replace(column, is_key=True) for column in columns]


def _unless_run(because: str) -> Because:
    """Return a reason that gives way to 'it never ran' for cells that did not."""
    return lambda cell: because if cell.step_time_s else labels.not_measured(cell)


def _repeats(cell: CellResult) -> Value:
    failed = f" ({len(cell.failures)} failed)" if cell.failures else ""
    return Value(f"{len(cell.runs)}{failed}", len(cell.runs))
