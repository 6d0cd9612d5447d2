"""Curves of a law and the cells that lie on them. Torch-free."""

from __future__ import annotations

import re

from worldsize.report.labels import plain, varied
from worldsize.study.records import CellResult, StudyResult


def batch_of(scaling: str, cell: CellResult) -> float:
    """Return what stays the same along a curve: the global batch, or the per-device batch under weak scaling."""
    return float(cell.global_batch if scaling == "strong" else cell.global_batch / cell.world_size)


def curve_label(scaling: str, series: str, batch: float) -> str:
    """Return 'global batch 64, d_model=256'."""
    held = f"{'global' if scaling == 'strong' else 'per-device'} batch {batch:,g}"
    short = re.sub(r"(?:\w+\.)+(?=\w+=)", "", series)
    return plain(f"{held}, {short}" if series else held)


def is_on(cell: CellResult, series: str) -> bool:
    """Whether a curve's name, with whole keys or their last parts, is that of the cell's varied settings."""
    return series in (varied(cell), ", ".join(f"{key}={value}" for key, value in cell.vary.items()))


def measured_cells(result: StudyResult, series: str, batch: float) -> list[CellResult]:
    """Return the measured cells of one curve, by devices. `series`: what the grid varied, in words, or ''."""
    cells = [c for c in result.cells if c.step_time_s and batch_of(result.scaling, c) == batch]
    return sorted((c for c in cells if is_on(c, series)), key=lambda c: c.world_size)
