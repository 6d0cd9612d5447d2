"""Studies with laws, what-ifs, lost time, time to loss and noise scale, from the cost model of `make_cell`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.report.studies import make_cell, make_study
from worldsize.measure.statistics import measured
from worldsize.scaling.fit import fit_laws
from worldsize.scaling.laws import Scaling
from worldsize.scaling.noise_scale import NoiseScale, gradient_noise_scale
from worldsize.scaling.observations import Observation
from worldsize.scaling.what_if import CellPhases, StudyModel, WhatIf, fit_study, usual_questions
from worldsize.study.records import CellResult, LostTime, StudyResult, TimeToLoss

PAYLOAD_BYTES = 4e6


def lost(cell: CellResult, base: CellResult) -> LostTime:
    """Against the baseline's step over the devices; compute is won back where the model divides it evenly."""
    assert cell.step_time_s
    assert base.step_time_s
    share = cell.world_size / base.world_size
    parts = {
        "exposed_communication_s": cell.phases_s["exposed_communication_s"],
        "compute_excess_s": cell.phases_s["compute_s"] - base.phases_s["compute_s"] / share - 0.0004,
        "optimizer_s": cell.phases_s["optimizer_s"] - base.phases_s["optimizer_s"] / share,
        "data_s": cell.phases_s["data_wait_s"] - base.phases_s["data_wait_s"] / share,
    }
    ideal_s = base.step_time_s.median / share
    lost_s = cell.step_time_s.median - ideal_s
    return LostTime(ideal_s=ideal_s, lost_s=lost_s, parts_s=parts | {"other_s": lost_s - sum(parts.values())})


def noise(world_size: int, global_batch: int) -> NoiseScale:
    """Gradients whose true noise scale is 400 samples."""
    rng = np.random.default_rng([world_size, global_batch])
    per_rank = global_batch // world_size
    draws = rng.normal(0, np.sqrt(400 / per_rank / 50), (40, world_size, 50))
    gradients = draws + np.sqrt(1 / 50)
    rank_norms = np.linalg.norm(gradients, axis=2)
    return gradient_noise_scale(rank_norms, np.linalg.norm(gradients.mean(axis=1), axis=1), per_rank)


def filled_cell(world_size: int, global_batch: int, **changes: Any) -> CellResult:
    cell = make_cell(world_size, global_batch)
    base = make_cell(1, global_batch)
    assert cell.step_time_s
    seconds = measured([20 * sample for sample in cell.step_time_s.samples])
    values: dict[str, Any] = {
        "time_to_loss": TimeToLoss(target=3.2, steps=20, tokens=20 * global_batch * 128, seconds=seconds),
        "lost_time": None if cell.is_baseline else lost(cell, base),
        "noise_scale": None if cell.is_baseline else noise(world_size, global_batch),
    }
    return cell.model_copy(update=values | changes)


def model_of(cells: list[CellResult]) -> StudyModel:
    rows = [
        CellPhases(
            cell.world_size,
            cell.global_batch,
            [{name: s * f for name, s in cell.phases_s.items()} for f in (0.991, 1.0, 1.0123)],
            PAYLOAD_BYTES if cell.world_size > 1 else 0.0,
        )
        for cell in cells
    ]
    return fit_study(rows)


def _cell(world_size: int, batch: int, scaling: Scaling) -> CellResult:
    """A cell of the grid; under weak scaling `batch` is per device."""
    if scaling == "strong":
        return filled_cell(world_size, batch)
    return filled_cell(
        world_size, batch * world_size, baseline=f"n1-b{batch}" if world_size > 1 else None, speedup=None
    )


def filled(
    devices: tuple[int, ...] = (1, 2, 4),
    batches: tuple[int, ...] = (32, 64, 128),
    scaling: Scaling = "strong",
    **changes: Any,
) -> StudyResult:
    """A study in which every optional part is there; under weak scaling `batches` are per device."""
    cells = [_cell(n, b, scaling) for b in batches for n in devices]
    observations = [
        Observation(c.world_size, c.global_batch, c.step_time_s.samples, PAYLOAD_BYTES if c.world_size > 1 else 0.0)
        for c in cells
        if c.step_time_s
    ]
    answers: list[WhatIf] = usual_questions(model_of(cells), devices[-1], batches[-1]) if len(devices) > 1 else []
    values: dict[str, Any] = {"fits": fit_laws(observations, scaling), "what_ifs": answers, "scaling": scaling}
    return make_study(*cells, **(values | changes))


FILLED = filled()
ONE_CURVE = filled((1, 2, 4, 8), (64,))
TWO_COUNTS = filled((1, 2), (64,))
