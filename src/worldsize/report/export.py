"""A study's results as Markdown, for people who paste, and as CSV, for people who compute. Torch-free."""

from __future__ import annotations

import csv
import io
import re

from worldsize.records import Measured
from worldsize.report import labels, rows
from worldsize.report.method import definitions
from worldsize.study.records import CellResult, StudyResult

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$&])")


def markdown(result: StudyResult) -> str:
    """Return the report as GitHub-flavoured Markdown, in the page's order, without the figures."""
    lines = [f"# {_escaped(result.verdict.headline)}", "", _escaped(result.title), ""]
    sections = (("Why", result.verdict.why), ("What to try next", result.verdict.next))
    for title, items in (*sections, ("Evidence", result.verdict.evidence)):
        lines += [f"## {title}", "", *(f"- {_escaped(item)}" for item in items), ""]
    for table in rows.tables(result):
        lines += [*_table(table), ""]
    lines += ["## Problems and warnings", "", *_problems(result), "", "## Method", ""]
    for definition in definitions(result):
        formula = f" {_escaped(definition.formula)}." if definition.formula else ""
        lines.append(f"- **{_escaped(definition.term)}.**{formula} {_escaped(definition.text)}")
    lines += ["", "## Environment", ""]
    if result.environment:
        known = result.environment.model_dump(mode="json", exclude_none=True)
        lines += [f"- {_escaped(key)}: {_escaped(str(value))}" for key, value in known.items()]
    else:
        lines.append("- not known: because the runs recorded no environment, or differ in it")
    if result.command:
        lines += ["", f"    {labels.plain(' '.join(result.command))}"]
    return "\n".join(lines) + "\n"


def _table(table: rows.Table) -> list[str]:
    heads = [f"{column.title} ({column.unit})" if column.unit else column.title for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    notes = table.notes
    body = [[_entry(value, notes) for _, value in row] for row in table.rows]
    lines = [_escaped(table.caption), "", _line([_escaped(head) for head in heads]), _line(rule), *map(_line, body)]
    return [*lines, "", *(f"{index}. {_escaped(note)}" for index, note in enumerate(notes, start=1))]


def _entry(value: rows.Value, notes: list[str]) -> str:
    if value.because:
        return f"{value.text} ({notes.index(value.note) + 1})"
    return _escaped(f"{value.text}{value.mark} ({value.interval})" if value.interval else value.text + value.mark)


def _line(entries: list[str]) -> str:
    return f"| {' | '.join(entries)} |"


def _problems(result: StudyResult) -> list[str]:
    names = labels.cell_labels(result)
    found = [("", problem) for problem in result.problems]
    found += [(f"{names[cell.name]}: ", problem) for cell in result.cells for problem in cell.problems]
    lines = [_escaped(f"{where}{p.rule} ({p.severity}): {p.message}") for where, p in found]
    lines += [
        _escaped(f"{names[cell.name]}: {failure.run} failed: {failure.reason}")
        for cell in result.cells
        for failure in cell.failures
    ]
    return [f"- {line}" for line in lines] or ["No rule found anything to object to."]


def _escaped(text: str) -> str:
    """Return `text` on one line, so that none of it is read as Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", labels.plain(text))


def as_csv(result: StudyResult) -> str:
    """Return a line a cell in stored units, full precision. An absent number is an empty field; `notes` say why."""
    text = io.StringIO()
    records = [_record(result, cell) for cell in result.cells]
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _record(result: StudyResult, cell: CellResult) -> dict[str, str | float | None]:
    record: dict[str, str | float | None] = {
        "cell": labels.plain(cell.name),
        "world_size": cell.world_size,
        "global_batch": cell.global_batch,
        "strategy": cell.strategy and labels.plain(cell.strategy),
        "baseline": cell.baseline and labels.plain(cell.baseline),
    }
    record |= {labels.plain(key): labels.plain(str(value)) for key, value in cell.vary.items()}
    measures: dict[str, Measured | None] = {
        "step_time_s": cell.step_time_s,
        "tokens_per_s": cell.tokens_per_s,
        "speedup": cell.speedup,
        "efficiency": cell.efficiency,
    }
    for name, measured in measures.items():
        record |= {name: None, f"{name}_low": None, f"{name}_high": None}
        if measured:
            record |= {name: measured.median, f"{name}_low": measured.low, f"{name}_high": measured.high}
    record |= {f"phase_{name}": seconds for name, seconds in cell.phases_s.items()}
    plain_fields = ("exposed_communication_share", "compute_to_communication", "peak_memory_bytes", "mfu")
    for name in (*plain_fields, "mfu_vs_measured_matmul", "measuring_cost_share", "final_loss"):
        record[name] = getattr(cell, name)
    record |= {"num_repeats": len(cell.runs), "num_failures": len(cell.failures), "overridden": str(cell.overridden)}
    missing = labels.no_speedup(result, cell) if cell.speedup is None and not cell.is_baseline else ""
    record["notes"] = "; ".join([*([missing] if missing else []), *(f"{p.rule}: {p.message}" for p in cell.problems)])
    return record
