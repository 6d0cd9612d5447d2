"""A study's results as CSV, for people who compute. Torch-free."""

from __future__ import annotations

import csv
import io

from worldsize.records import Measured
from worldsize.report import labels
from worldsize.study.records import CellResult, StudyResult


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
    plain_fields = (
        "exposed_communication_share",
        "compute_to_communication",
        "peak_memory_bytes",
        "allocated_bytes",
        "held_bytes",
        "mfu",
    )
    for name in (*plain_fields, "mfu_vs_measured_matmul", "measuring_cost_share", "final_loss"):
        record[name] = getattr(cell, name)
    record |= {"num_repeats": len(cell.runs), "num_failures": len(cell.failures), "overridden": str(cell.overridden)}
    missing = labels.no_speedup(result, cell) if cell.speedup is None and not cell.is_baseline else ""
    record["notes"] = "; ".join([*([missing] if missing else []), *(f"{p.rule}: {p.message}" for p in cell.problems)])
    return record
