"""Tables of values, whatever the format. Torch-free.

A Value keeps the stored number beside its text, and where there is no number, the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from worldsize.records import Measured
from worldsize.report import labels
from worldsize.report.numbers import (
    Unit,
    decimals,
    interval_ends,
    interval_places,
    places_for,
    show,
    show_interval,
)
from worldsize.scaling.interval import Interval
from worldsize.study.records import CellResult, StudyResult

Number = Measured | Interval | float


@dataclass(frozen=True)
class Value:
    """One entry of a table. `raw` is in the stored unit; without a number, `text` says so and `because` says why."""

    text: str
    raw: float | None = None
    interval: str = ""
    because: str = ""
    mark: str = ""
    remark: str = ""
    """What must be known to read the number, as a sentence."""

    @property
    def note(self) -> str:
        """What stands under the table: the reason of an absence, or the remark; '' for none."""
        if self.because:
            return f"{self.text[:1].upper()}{self.text[1:]}: because {self.because}."
        return self.remark


@dataclass(frozen=True)
class Column:
    """A column's heading, its unit and its entries from the top down. `key` names the stored quantity."""

    key: str
    title: str
    unit: str
    values: list[Value]
    numeric: bool = True
    is_key: bool = False
    """Whether it says what a row is about, rather than something about it."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length."""

    caption: str
    columns: list[Column] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """The notes of all values, each once, in the order in which a reader meets them."""
        return list(dict.fromkeys(value.note for row in self.rows for _, value in row if value.note))

    @property
    def rows(self) -> list[list[tuple[Column, Value]]]:
        return [[(column, column.values[row]) for column in self.columns] for row in range(len(self.columns[0].values))]


Pick = Callable[[CellResult], "Number | None"]
Because = Callable[[CellResult], str]


def value(number: Number | None, unit: Unit, because: str, places: int | None = None) -> Value:
    """Return a table's entry for a stored number, or for its absence."""
    if number is None:
        return Value("not known", because=because.rstrip("."))
    places = places_of(number, unit) if places is None else places
    if isinstance(number, Measured):
        return Value(show(number.median * unit.factor, places), number.median, show_interval(number, unit, places))
    if isinstance(number, Interval):
        text = "no limit" if number.value is None else show(number.value * unit.factor, places)
        return Value(text, number.value, interval_ends(number, unit, places))
    return Value("0" if number == 0 else show(number * unit.factor, places), float(number))


def places_of(number: Number, unit: Unit) -> int:
    """Return the places after the point that a number deserves: none for a count."""
    if isinstance(number, int):
        return 0
    if isinstance(number, Measured):
        return places_for(number, unit)
    return interval_places(number, unit) if isinstance(number, Interval) else decimals(number * unit.factor)


def number_column(key: str, title: str, unit: Unit, numbers: Sequence[Number | None], because: Sequence[str]) -> Column:
    """Return numbers in one unit and with equally many places, so that points stand in line."""
    places = max((places_of(number, unit) for number in numbers if number is not None), default=0)
    entries = [value(number, unit, why, places) for number, why in zip(numbers, because, strict=True)]
    return Column(key, title, unit.name, entries)


def column(
    cells: Sequence[CellResult],
    key: str,
    title: str,
    pick: Pick,
    unit: Unit,
    because: Because,
) -> Column:
    """Return one quantity of every cell."""
    return number_column(key, title, unit, [pick(cell) for cell in cells], [because(cell) for cell in cells])


def comparison(cells: Sequence[CellResult], key: str, pick: Pick, unit: Unit, because: Because) -> Column:
    """Return a quantity that compares a cell with its baseline: it can be refused, and printed by override."""
    entries = column(cells, key, key, pick, unit, because).values
    for row, cell in enumerate(cells):
        if cell.is_baseline and entries[row].because and cell.step_time_s:
            entries[row] = Value("baseline")
        elif cell.overridden and not entries[row].because:
            entries[row] = replace(entries[row], mark="†")
        elif cell.other_maths and not entries[row].because:
            entries[row] = replace(entries[row], mark="‡")
        elif labels.is_refused(cell) and entries[row].because:
            entries[row] = replace(entries[row], text="refused")
    return Column(key, key, unit.name, entries)


def words(key: str, title: str, texts: Sequence[str]) -> Column:
    """Return a column of text."""
    return Column(key, title, "", [Value(labels.plain(text)) for text in texts], numeric=False)


def identity(result: StudyResult, cells: Sequence[CellResult] | None = None) -> list[Column]:
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
