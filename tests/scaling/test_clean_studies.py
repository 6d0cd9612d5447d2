"""False alarms: twenty clean studies, each another machine's noise, raise no rule at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.study.synthetic import make_run, make_study
from tests.study.synthetic_work import phases_of
from worldsize.study.results import analyse

REPEATS = 5
DRIFT_MEMORY = 0.7


def drift_of_rounds(rng: np.random.Generator, sd: float) -> list[float]:
    """A machine that grows faster and slower by `sd`, slowly: each round keeps most of the last one's deviation."""
    deviation, drifts = rng.normal(0, sd), []
    for _ in range(REPEATS):
        drifts.append(1 + deviation)
        deviation = DRIFT_MEMORY * deviation + np.sqrt(1 - DRIFT_MEMORY**2) * rng.normal(0, sd)
    return drifts


@pytest.mark.parametrize("seed", range(20))
def test_a_clean_study_raises_no_rule(tmp_path: Path, seed: int) -> None:
    """Runs that differ by 1-3 % in steps that remember each other, on a machine that drifts by as much."""
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.01, 0.03)
    exposed_s = rng.uniform(0.001, 0.03)  # 96 to 68 % efficiency at two devices
    scaling = "strong" if seed % 2 == 0 else "weak"
    folder = make_study(tmp_path, world_sizes=(1, 2, 4), repeats=REPEATS, scaling=scaling, noise=0.0)
    drifts = drift_of_rounds(rng, noise)
    for world_size in (1, 2, 4):
        batch = 64 * world_size if scaling == "weak" else 64
        for repeat in range(REPEATS):
            make_run(
                folder / f"runs/n{world_size}-b{batch}/r{repeat + 1}",
                world_size=world_size,
                global_batch=batch,
                phases={k: s * drifts[repeat] for k, s in phases_of(world_size, batch, exposed_s=exposed_s).items()},
                noise=noise,
                memory=0.6,
                noise_scale=200.0,
                noise_seed=1000 * seed + 10 * world_size + repeat,
                num_steps=45,
            )
    result = analyse(folder)
    raised = {cell.name: [problem.message for problem in cell.problems] for cell in result.cells if cell.problems}
    assert raised == {}
    assert result.problems == []
    assert all(cell.efficiency for cell in result.cells if not cell.is_baseline)
