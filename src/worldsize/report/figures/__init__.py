"""Figures: each a function from records to a matplotlib figure. They draw; what they draw was analysed elsewhere."""

from __future__ import annotations

import warnings
from pathlib import Path

from matplotlib.figure import Figure

from worldsize.errors import UserError
from worldsize.report import theme
from worldsize.report.figures.batches import batch_efficiency
from worldsize.report.figures.communication import compute_communication
from worldsize.report.figures.confusion import confusion
from worldsize.report.figures.cost import planned_cost, planned_efficiency
from worldsize.report.figures.heat import rank_phases
from worldsize.report.figures.laws import laws
from worldsize.report.figures.lost import lost_time
from worldsize.report.figures.phases import exposed, phases
from worldsize.report.figures.ranks import per_rank
from worldsize.report.figures.samples import step_samples
from worldsize.report.figures.scaling import efficiency, speedup
from worldsize.report.figures.timing import step_time, throughput
from worldsize.report.figures.training import loss_by_step, loss_by_time

__all__ = [
    "batch_efficiency",
    "compute_communication",
    "confusion",
    "efficiency",
    "exposed",
    "laws",
    "loss_by_step",
    "loss_by_time",
    "lost_time",
    "per_rank",
    "phases",
    "planned_cost",
    "planned_efficiency",
    "rank_phases",
    "save",
    "speedup",
    "step_samples",
    "step_time",
    "throughput",
]

FORMATS = ("svg", "pdf", "png")


def save(figure: Figure, path: Path) -> None:
    """Write `figure` in the format of `path`'s suffix, in the light colours. Equal figures make equal files.

    Raises UserError for a suffix that is none of FORMATS.
    """
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise UserError(f"cannot save a figure as {path.name!r}. Allowed: {', '.join('.' + name for name in FORMATS)}.")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with theme.style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        background = "none" if kind == "pdf" else "auto"  # a paper brings its own white
        figure.savefig(path, format=kind, metadata=undated, facecolor=background)
