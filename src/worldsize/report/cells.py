"""Which cell a figure is about. Torch-free, and free of matplotlib."""

from __future__ import annotations

from worldsize.study.records import CellResult, StudyResult


def classified(result: StudyResult) -> CellResult | None:
    """Return the cell on the most devices, of these with the largest batch, whose classes were counted."""
    cells = [cell for cell in result.cells if cell.held_out and cell.held_out.confusion]
    return max(cells, key=lambda cell: (cell.world_size, cell.global_batch), default=None)
