"""Cells as measured: the finished repeats of each point of a grid, and the cell that each is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldsize.errors import UserError
from worldsize.run_folder import is_finished
from worldsize.study.files import Run, read_failure, read_run
from worldsize.study.grid import Scaling, cell_name, cells_of, run_folder
from worldsize.study.records import RunFailure, StudyPlan

NOT_WORK = (
    "track.",
    "data.cache_dir",
    "data.num_workers",
    "device.kind",
    "device.timeout_s",
    "measure.",
    "checkpoint.",
    "launch.",
)
"""Keys (or beginnings of keys) that change neither what is trained nor how."""


@dataclass(frozen=True)
class MeasuredCell:
    """One point of a grid with its runs."""

    name: str
    world_size: int
    global_batch: int
    vary: dict[str, Any]
    baseline: str
    """Name of the cell that this one is compared with; its own name where it is compared with none."""
    runs: tuple[Run, ...] = ()
    rounds: tuple[int, ...] = ()
    """The round in which each run was made; empty where runs were not made in rounds."""
    failures: tuple[RunFailure, ...] = ()

    @property
    def is_baseline(self) -> bool:
        return self.baseline == self.name


def paired_rounds(baseline: MeasuredCell, cell: MeasuredCell) -> tuple[list[list[float]], list[list[float]], bool]:
    """Return both cells' step times (s), one list a repeat, and whether the lists are pairs of one round."""
    ours, theirs = (dict(zip(c.rounds, c.runs, strict=False)) for c in (cell, baseline))
    common = sorted(set(ours) & set(theirs))
    if common:
        return [theirs[r].step_times_s for r in common], [ours[r].step_times_s for r in common], True
    return [run.step_times_s for run in baseline.runs], [run.step_times_s for run in cell.runs], False


def of_study(folder: Path, plan: StudyPlan) -> list[MeasuredCell]:
    """Read the plan's runs: those that finished, and why others did not."""
    cells = []
    for planned in cells_of(plan):
        folders = {repeat: run_folder(planned.name, repeat) for repeat in range(1, plan.num_rounds + 1)}
        runs = {repeat: read_run(folder / path) for repeat, path in folders.items() if is_finished(folder / path)}
        for run in runs.values():
            _expect(run, planned.world_size, planned.global_batch)
        failures = [failure for path in folders.values() if (failure := read_failure(folder / path))]
        cell = MeasuredCell(planned.name, planned.world_size, planned.global_batch, planned.vary, planned.baseline)
        cells.append(replace(cell, runs=tuple(runs.values()), rounds=tuple(runs), failures=tuple(failures)))
    return cells


def _expect(run: Run, world_size: int, global_batch: int) -> None:
    found = (run.record.world_size, run.config.train.global_batch)
    if found != (world_size, global_batch):
        raise UserError(
            f"{run.folder / 'run.json'}: world size {found[0]} and global batch {found[1]}, but by study.json this "
            f"folder holds world size {world_size} and global batch {global_batch}. Was the folder moved?"
        )


def of_runs(runs: Sequence[Run], scaling: Scaling | None = None) -> tuple[list[MeasuredCell], Scaling]:
    """Group any runs into cells by world size, global batch and whichever config keys differ among them.

    The baseline of a cell has the smallest world size of all and differs least otherwise. `scaling` None reads the mode
    off the batches: strong where a larger world size repeats a global batch of the smallest, weak where it repeats only
    its per-device batch.
    """
    flat = [_work_keys(run) for run in runs]
    differing = sorted(key for key in set().union(*flat) if len({repr(keys.get(key)) for keys in flat}) > 1)
    groups: dict[str, list[Run]] = {}
    points: dict[str, MeasuredCell] = {}
    for run, keys in sorted(zip(runs, flat, strict=True), key=lambda pair: pair[0].record.started_at):
        vary = {key: keys.get(key) for key in differing}
        batch = run.config.train.global_batch
        identity = repr((run.record.world_size, batch, vary))
        points.setdefault(identity, MeasuredCell("", run.record.world_size, batch, vary, ""))
        groups.setdefault(identity, []).append(run)
    taken: set[str] = set()
    cells = [
        replace(
            point, name=cell_name(point.world_size, point.global_batch, point.vary, taken), runs=tuple(groups[identity])
        )
        for identity, point in points.items()
    ]
    cells.sort(key=lambda cell: (repr(cell.vary), cell.global_batch, cell.world_size))
    scaling = scaling or _scaling_of(cells)
    return [replace(cell, baseline=_baseline_of(cell, cells, scaling)) for cell in cells], scaling


def _work_keys(run: Run) -> dict[str, Any]:
    """Flatten what the user chose; values derived from others (micro batch, strategy 'auto') follow the layout."""
    keys = run.settings
    derived = {key for key, origin in run.record.origins.items() if origin.source == "derived"}
    derived |= {"train.global_batch", "parallel.dp"}
    return {key: value for key, value in keys.items() if key not in derived and not key.startswith(NOT_WORK)}


def _per_device(cell: MeasuredCell) -> float:
    return cell.global_batch / cell.world_size


def _scaling_of(cells: Sequence[MeasuredCell]) -> Scaling:
    smallest = min(cell.world_size for cell in cells)
    first = [cell for cell in cells if cell.world_size == smallest]
    larger = [cell for cell in cells if cell.world_size > smallest]
    if any(cell.global_batch == base.global_batch for cell in larger for base in first):
        return "strong"
    same_share = any(_per_device(cell) == _per_device(base) for cell in larger for base in first)
    return "weak" if same_share else "strong"


def _baseline_of(cell: MeasuredCell, cells: Sequence[MeasuredCell], scaling: Scaling) -> str:
    smallest = min(other.world_size for other in cells)
    if cell.world_size == smallest:
        return cell.name

    def distance(base: MeasuredCell) -> tuple[int, float]:
        num_differing = sum(base.vary[key] != value for key, value in cell.vary.items())
        if scaling == "weak":
            return num_differing, abs(_per_device(base) - _per_device(cell))
        return num_differing, abs(base.global_batch - cell.global_batch)

    return min((other for other in cells if other.world_size == smallest), key=distance).name


def baselines(cells: Sequence[MeasuredCell]) -> Mapping[str, MeasuredCell]:
    """Return name → the cell that it is compared with."""
    by_name = {cell.name: cell for cell in cells}
    return {cell.name: by_name[cell.baseline] for cell in cells}
