"""Figures: each a function from records to a matplotlib figure. They draw; what they draw was analysed elsewhere."""

from __future__ import annotations

import warnings
from pathlib import Path

from matplotlib.figure import Figure

from worldsize.errors import UserError
from worldsize.report import theme
from worldsize.report.figures.phases import exposed, phases
from worldsize.report.figures.ranks import per_rank
from worldsize.report.figures.scaling import efficiency, speedup
from worldsize.report.figures.timing import step_time, throughput
from worldsize.report.figures.training import loss_by_step, loss_by_time

__all__ = [
    "efficiency",
    "exposed",
    "loss_by_step",
    "loss_by_time",
    "per_rank",
    "phases",
    "save",
    "speedup",
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
        figure.savefig(path, format=kind, metadata=undated)
