"""What cells and series are called, which cells belong to one line, and why a number is not there. Torch-free."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from worldsize.records import Measured
from worldsize.report.numbers import count
from worldsize.study.records import CellResult, StudyResult

LONGEST_LABEL = 46
"""Characters of a label in a figure; tables show names whole."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")


def plain(text: str, longest: int | None = None) -> str:
    """Return `text` on one line, without control characters, cut to `longest` characters."""
    line = " ".join(_UNPRINTABLE.sub(" ", text).split())
    return line if longest is None or len(line) <= longest else line[: longest - 1] + "…"


def varied(cell: CellResult) -> str:
    """Return 'num_layers=4, d_model=256' for what the grid varied, or ''."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in cell.vary.items())


def describe(cell: CellResult) -> str:
    """Return '2 devices, global batch 64, num_layers=4': the cell in words, not necessarily unique."""
    return _joined(_parts(cell))


def _parts(cell: CellResult) -> dict[str, str]:
    """Return by field what makes a cell's words; '' for nothing."""
    return {
        "world_size": count(cell.world_size, "device"),
        "global_batch": f"global batch {cell.global_batch:,}",
        "vary": varied(cell),
    }


def _joined(parts: dict[str, str]) -> str:
    return ", ".join(part for part in parts.values() if part)


def in_common(result: StudyResult) -> str:
    """Return '2 devices, global batch 16' as far as all cells share it, where the grid varied something else; or ''."""
    return _joined(_shared(result))


def _shared(result: StudyResult) -> dict[str, str]:
    """Return by field what names need not repeat, since what was varied tells the cells apart."""
    every = [_parts(cell) for cell in result.cells]
    if not any(parts["vary"] for parts in every):
        return {}
    fields = ("world_size", "global_batch")
    return {field: every[0][field] for field in fields if len({parts[field] for parts in every}) == 1}


def cell_labels(result: StudyResult) -> dict[str, str]:
    """Return a label a cell, by cell name, without what all share. Cells that read alike carry their names too."""
    shared = _shared(result)
    own = {
        cell.name: _joined({field: part for field, part in _parts(cell).items() if field not in shared})
        for cell in result.cells
    }
    words = {cell.name: own[cell.name] or describe(cell) for cell in result.cells}
    alike = Counter(words.values())
    labels = {name: text if alike[text] == 1 else f"{text} [{name}]" for name, text in words.items()}
    return {name: plain(text, LONGEST_LABEL) for name, text in labels.items()}


@dataclass(frozen=True)
class Series:
    """Cells on one line over devices: the same work, or the same work per device under weak scaling."""

    label: str
    cells: list[CellResult]


def series(result: StudyResult) -> list[Series]:
    """Group cells by the baseline they are compared with and by what was varied; each line starts at its baseline.

    A baseline with which other lines start is no line of its own.
    """
    by_name = {cell.name: cell for cell in result.cells}
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for cell in result.cells:
        baseline = cell.name if cell.is_baseline else cell.baseline or ""
        groups.setdefault((baseline, varied(cell)), []).append(cell)
    lines = []
    for (baseline, vary), cells in groups.items():
        first = by_name.get(baseline, cells[0])
        members = cells if first in cells else [first, *cells]
        members = sorted(members, key=lambda cell: cell.world_size)
        lines.append(Series(plain(_series_label(result, members[0], vary), LONGEST_LABEL), members))
    begun = [line.cells[0] for line in lines if len(line.cells) > 1]
    return [line for line in lines if len(line.cells) > 1 or line.cells[0] not in begun]


def _series_label(result: StudyResult, cell: CellResult, vary: str) -> str:
    if result.scaling == "strong":
        batch = f"global batch {cell.global_batch:,}"
    else:
        batch = f"per-device batch {cell.global_batch / cell.world_size:g}"
    if vary and "global_batch" in _shared(result):
        return vary
    return f"{batch}, {vary}" if vary else batch


def baseline_point(cell: CellResult) -> Measured | None:
    """Return 1 for a measured baseline: its ratio to itself, known without measuring and so without spread."""
    return Measured(median=1, low=1, high=1, samples=[1]) if cell.is_baseline and cell.step_time_s else None


def compares(result: StudyResult) -> bool:
    """Whether any cell is compared with another, or was to be: not where each is its own baseline."""
    return not all(cell.is_baseline for cell in result.cells)


def is_refused(cell: CellResult) -> bool:
    """Whether the cell was measured and its comparison with the baseline refused."""
    return not cell.is_baseline and cell.step_time_s is not None and cell.efficiency is None and not cell.overridden


def blocking_rules(cell: CellResult) -> list[str]:
    """Return the names of the rules that forbid a speedup, without repeats."""
    return list(dict.fromkeys(problem.rule for problem in cell.problems if problem.severity == "blocks"))


def not_measured(cell: CellResult) -> str:
    """Return why a cell without a step time has none."""
    if not cell.failures:
        return "no repeat has finished"
    reason = plain(cell.failures[0].reason)
    repeats = count(len(cell.failures), "repeat")
    return f"{repeats} failed and none finished; {cell.failures[0].run}: {reason}"


def no_speedup(result: StudyResult, cell: CellResult) -> str:
    """Return why a cell has no speedup; under weak scaling none does."""
    if result.scaling == "weak" and cell.efficiency is not None:
        return "under weak scaling the work grows with the devices, so that efficiency stands for speedup"
    return not_compared(cell)


def not_compared(cell: CellResult) -> str:
    """Return why a cell has no speedup or efficiency."""
    if cell.step_time_s is None:
        return not_measured(cell)
    rules = blocking_rules(cell)
    if rules:
        return f"comparison refused by {', '.join(rules)} (see Problems)"
    if cell.baseline is None:
        return "the study holds no baseline to compare with"
    return f"baseline {cell.baseline} was not measured"


def unless_run(because: str) -> Callable[[CellResult], str]:
    """Return a reason that gives way to 'it never ran' for cells that did not."""
    return lambda cell: because if cell.step_time_s else not_measured(cell)
