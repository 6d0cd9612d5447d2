"""Curves of a law and the cells that lie on them. Torch-free."""

from __future__ import annotations

from worldsize.report.labels import plain, varied
from worldsize.study.records import CellResult, StudyResult


def batch_of(scaling: str, cell: CellResult) -> float:
    """Return what stays the same along a curve: the global batch, or the per-device batch under weak scaling."""
    return float(cell.global_batch if scaling == "strong" else cell.global_batch / cell.world_size)


def curve_label(scaling: str, series: str, batch: float) -> str:
    """Return 'global batch 64, d_model=256'."""
    held = f"{'global' if scaling == 'strong' else 'per-device'} batch {batch:,g}"
    return plain(f"{held}, {series}" if series else held)


def measured_cells(result: StudyResult, series: str, batch: float) -> list[CellResult]:
    """Return the measured cells of one curve, by devices. `series`: what the grid varied, in words, or ''."""
    cells = [c for c in result.cells if c.step_time_s and batch_of(result.scaling, c) == batch]
    named = [c for c in cells if varied(c) == series]
    return sorted(named or cells, key=lambda c: c.world_size)
