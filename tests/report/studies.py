"""StudyResults for the report's tests, by hand: figures that a test can look for, and every kind of absence."""

from __future__ import annotations

from typing import Any

from tests.study.synthetic import losses_of, make_config, make_environment, phases_of
from worldsize.measure.statistics import measured
from worldsize.records import ExposedCommunication, Problem
from worldsize.study.records import CellResult, RunFailure, StudyResult, Verdict

SPREAD = (0.991, 1.0, 1.0123)


def make_cell(world_size: int, global_batch: int = 64, *, smallest: int = 1, **changes: Any) -> CellResult:
    """A measured cell under the cost model of `phases_of`; `changes` replace fields."""
    phases = phases_of(world_size, global_batch)
    step_s, one_s = sum(phases.values()), sum(phases_of(smallest, global_batch).values())
    times = [step_s * factor for factor in SPREAD]
    exposed_s = phases["exposed_communication_s"]
    is_baseline = world_size == smallest
    values: dict[str, Any] = {
        "name": f"n{world_size}-b{global_batch}",
        "world_size": world_size,
        "global_batch": global_batch,
        "vary": {},
        "strategy": "single" if world_size == 1 else "ddp",
        "layout": {"dp": world_size, "fsdp": 1, "tp": 1, "pp": 1},
        "is_baseline": is_baseline,
        "baseline": None if is_baseline else f"n{smallest}-b{global_batch}",
        "runs": [f"runs/n{world_size}-b{global_batch}/r{repeat}" for repeat in (1, 2, 3)],
        "step_time_s": measured(times),
        "tokens_per_s": measured([global_batch * 128 / time for time in times]),
        "phases_s": phases,
        "speedup": None if is_baseline else measured([one_s / time for time in times]),
        "efficiency": None if is_baseline else measured([one_s * smallest / time / world_size for time in times]),
        "exposed_communication_share": exposed_s / step_s,
        "compute_to_communication": phases["compute_s"] / exposed_s if exposed_s else None,
        "peak_memory_bytes": 400 * 2**20 + world_size,
        "allocated_bytes": 300 * 2**20 + world_size,
        "held_bytes": 200 * 2**20,
        "mfu_vs_measured_matmul": 0.8137,
        "measuring_cost_share": 0.00213,
        "losses": losses_of(25, 0, global_batch),
        "final_loss": losses_of(25, 0, global_batch)[-1],
    }
    if exposed_s:
        values["exposed_communication"] = ExposedCommunication(
            clock_s=measured([exposed_s * factor for factor in SPREAD]),
            ablation_s=measured([exposed_s * 0.93 * factor for factor in SPREAD]),
        )
    return CellResult(**(values | changes))


def failed(world_size: int, global_batch: int = 64, reason: str = "rank 5 died at step 3: out of memory") -> CellResult:
    """A cell of which no repeat finished."""
    name = f"n{world_size}-b{global_batch}"
    return CellResult(
        name=name,
        world_size=world_size,
        global_batch=global_batch,
        vary={},
        is_baseline=world_size == 1,
        baseline=None if world_size == 1 else f"n1-b{global_batch}",
        runs=[],
        failures=[RunFailure(run=f"runs/{name}/r1", reason=reason)],
    )


def refused(world_size: int, global_batch: int = 64, **changes: Any) -> CellResult:
    """A measured cell whose comparison the gate refused."""
    problem = Problem(
        rule="unequal-work", severity="blocks", message="6,400 samples, the baseline 1,600: shard by rank."
    )
    return make_cell(world_size, global_batch, speedup=None, efficiency=None, problems=[problem], **changes)


def make_study(*cells: CellResult, **changes: Any) -> StudyResult:
    values: dict[str, Any] = {
        "title": "a small study",
        "scaling": "strong",
        "cells": list(cells),
        "verdict": Verdict(
            headline="2 devices are 1.72× as fast as one (1.70–1.74).",
            why=["Exposed communication is 9.8 % of the step."],
            next=["A global batch of 128 would give 1.9×."],
            evidence=["3 repeats a cell."],
        ),
        "environment": make_environment(max((cell.world_size for cell in cells), default=1), {}),
        "config": make_config(1, 64, 25, 0, {"model.d_model": 256, "measure.warmup_steps": 7}),
        "command": ["worldsize", "study", "config.yaml", "--nproc", "1,2"],
    }
    return StudyResult(**(values | changes))


def overridden(world_size: int, global_batch: int = 64) -> CellResult:
    problem = Problem(rule="unequal-batch", severity="blocks", message="Global batch 64, the baseline 32.")
    return make_cell(world_size, global_batch, overridden=True, problems=[problem])


def many_cells() -> StudyResult:
    cells = [make_cell(n, b) for b in (8, 16, 32, 64, 128, 256, 512, 1024) for n in (1, 2, 4, 8, 16)]
    return make_study(*cells)


STUDIES = {
    "two devices": make_study(make_cell(1), make_cell(2)),
    "one cell": make_study(make_cell(1)),
    "one world size": make_study(make_cell(2, 64, smallest=2), make_cell(2, 128, smallest=2)),
    "failures only": make_study(failed(1), failed(2), environment=None, config={}, command=[]),
    "no cell": make_study(),
    "refused": make_study(make_cell(1), refused(2), refused(4), failed(8)),
    "overridden": make_study(make_cell(1), overridden(2)),
    "weak": make_study(make_cell(1, 64), make_cell(2, 128, speedup=None, baseline="n1-b64"), scaling="weak"),
    "many cells": many_cells(),
    "one repeat": make_study(
        make_cell(1, step_time_s=measured([0.1])), make_cell(2, step_time_s=measured([0.05]), runs=["r"])
    ),
}
