"""Files with one row an epoch: the rows of a run become one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from worldsize.audit.records import Row

PER_EPOCH = ("tokens_per_s", "samples_per_s", "throughput", "communication_s", "compute_s")
COUNTS = ("steps", "micro_steps", "samples", "samples_per_rank", "tokens")
IDENTITY = ("series", "run", "devices", "scaling", "model", "data", "context_length", "precision", "strategy", "device")


@dataclass(frozen=True)
class EpochRow:
    """A row, and which epoch it stands for where the file says so."""

    epoch: float | None
    row: Row


def combined(rows: Sequence[EpochRow], path: str) -> list[Row]:
    """Return one row a run. Rows that differ only in their epoch belong to one run; others stay as they are."""
    groups: dict[str, list[EpochRow]] = {}
    for index, each in enumerate(rows):
        identity = repr([getattr(each.row, name) for name in IDENTITY]) if each.epoch is not None else f"row {index}"
        groups.setdefault(identity, []).append(each)
    return [row for group in groups.values() for row in _of_group(group, path)]


def _of_group(group: Sequence[EpochRow], path: str) -> list[Row]:
    rows = [each.row for each in group]
    if len({each.epoch for each in group}) < max(2, len(group)):
        return rows
    first, last = rows[0], rows[-1]
    changes: dict[str, Any] = {
        "where": f"{path}, {len(rows)} epochs" + (f" on {first.devices}" if first.devices else ""),
        "time_s": None,
        "epochs": None,
        "epoch_time_s": _median([row.epoch_time_s or row.time_s for row in rows]),
        "first_loss": first.last_loss if first.first_loss is None else first.first_loss,
        "last_loss": last.last_loss,
        "validation_loss": last.validation_loss,
    }
    changes |= {name: _median([getattr(row, name) for row in rows]) for name in PER_EPOCH}
    changes |= {name: _whole(_median([getattr(row, name) for row in rows])) for name in COUNTS}
    return [first.model_copy(update=changes)]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
