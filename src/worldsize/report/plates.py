"""Which figures a study has numbers for, in reading order. Torch-free; matplotlib comes when one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldsize.report import captions, labels
from worldsize.report.cells import classified
from worldsize.report.document import Numbers, Plate
from worldsize.report.figures.training import has_losses
from worldsize.report.runs import RunFolders
from worldsize.study.records import StudyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure that a study may have. `key` names its function in figures/, its caption and its files."""

    key: str
    title: str
    applies: Callable[[StudyResult, RunFolders], bool]
    needs: str = ""
    """Attribute of RunFolders that the figure takes beside the result."""


def _always(result: StudyResult, _runs: RunFolders) -> bool:
    return bool(result.cells)


def _compares(result: StudyResult, _runs: RunFolders) -> bool:
    return labels.compares(result)


def _has_speedup(result: StudyResult, runs: RunFolders) -> bool:
    return _compares(result, runs) and (result.scaling == "strong" or any(cell.speedup for cell in result.cells))


def _has_exposed(result: StudyResult, _runs: RunFolders) -> bool:
    return any(cell.exposed_communication for cell in result.cells)


def _has_ranks(result: StudyResult, runs: RunFolders) -> bool:
    return any(cell.world_size > 1 and runs.ranks.get(cell.name) for cell in result.cells)


def _has_samples(result: StudyResult, runs: RunFolders) -> bool:
    return any(cell.step_time_s and runs.samples.get(cell.name) for cell in result.cells)


def _has_ratio(result: StudyResult, _runs: RunFolders) -> bool:
    return any(c.world_size > 1 and c.compute_to_communication for c in result.cells)


def _has_losses(result: StudyResult, _runs: RunFolders) -> bool:
    return has_losses(result)


def _has_lost_time(result: StudyResult, _runs: RunFolders) -> bool:
    return any(cell.lost_time for cell in result.cells)


def _has_batches(result: StudyResult, _runs: RunFolders) -> bool:
    compared = [c for c in result.cells if c.efficiency and not c.is_baseline]
    return any(a.world_size == b.world_size and a.global_batch != b.global_batch for a in compared for b in compared)


def _has_laws(result: StudyResult, _runs: RunFolders) -> bool:
    return result.fits is not None and result.fits.best is not None


def _has_classes(result: StudyResult, _runs: RunFolders) -> bool:
    return classified(result) is not None


DRAWINGS = (
    Drawing("speedup", "Speedup", _has_speedup),
    Drawing("efficiency", "Efficiency", _compares),
    Drawing("step_time", "Step time", _always),
    Drawing("throughput", "Throughput", _always),
    Drawing("phases", "Phases of a step", _always),
    Drawing("lost_time", "Lost time", _has_lost_time),
    Drawing("exposed", "Exposed communication", _has_exposed),
    Drawing("compute_communication", "Compute against communication", _has_ratio),
    Drawing("batch_efficiency", "Batch against efficiency", _has_batches),
    Drawing("step_samples", "Every timed step", _has_samples, "samples"),
    Drawing("per_rank", "Ranks", _has_ranks, "ranks"),
    Drawing("rank_phases", "Phases by rank", _has_ranks, "ranks"),
    Drawing("loss_by_step", "Loss by step", _has_losses),
    Drawing("loss_by_time", "Loss by time", _has_losses),
    Drawing("confusion", "Confusion matrix", _has_classes),
    Drawing("laws", "Scaling laws", _has_laws),
)


def plates(result: StudyResult, runs: RunFolders, numbers: Numbers, keys: Iterable[str] | None = None) -> list[Plate]:
    """Return the figures that the study has numbers for; of `keys` alone where they are given."""
    wanted = None if keys is None else set(keys)
    return [
        _plate(drawing, result, runs, numbers)
        for drawing in DRAWINGS
        if (wanted is None or drawing.key in wanted) and result.cells and drawing.applies(result, runs)
    ]


def _plate(drawing: Drawing, result: StudyResult, runs: RunFolders, numbers: Numbers) -> Plate:
    def draw() -> Figure:
        from worldsize.report import figures

        more = [getattr(runs, drawing.needs)] if drawing.needs else []
        figure: Figure = getattr(figures, drawing.key)(result, *more)
        return figure

    alt = f"{drawing.title}. {captions.alt(result, drawing.key)}"
    return numbers.plate(drawing.key, drawing.title, getattr(captions, drawing.key)(result), alt, draw)
