"""Which runs share a job, in which order, and what of the config reaches them."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsize.config.load import load
from worldsize.errors import UserError
from worldsize.launch.jobs import Shape, jobs_by_cell, jobs_by_world_size, shapes_of, without_launch, write_configs
from worldsize.study.grid import Cell, cells_of, load_cells, order_of
from worldsize.study.runner import base_plan


def cells(world_sizes: list[int], batches: list[int]) -> list[Cell]:
    plan = base_plan(
        load(None).config, world_sizes=world_sizes, global_batches=batches, vary={}, scaling="strong", repeats=3,
        command=[],
    )  # fmt: skip
    return cells_of(plan)


def test_shapes_are_nodes_times_devices() -> None:
    assert shapes_of([1, 2, 4], [4]) == {4: Shape(1, 4), 8: Shape(2, 4), 16: Shape(4, 4)}
    assert shapes_of([1], [1, 8]) == {1: Shape(1, 1), 8: Shape(1, 8)}


def test_one_world_size_has_one_shape() -> None:
    with pytest.raises(UserError, match=r"1 × 4 and 2 × 2 .*world size 4"):
        shapes_of([1, 2], [2, 4])


def test_a_world_sizes_cells_take_turns_in_one_job() -> None:
    grid = cells([2, 4], [8, 16])
    jobs = jobs_by_world_size(grid, shapes_of([1, 2], [2]), repeats=3)
    assert [(job.name, job.shape.num_nodes) for job in jobs] == [("n2", 1), ("n4", 2)]
    for job in jobs:
        rounds = [[planned.cell.name for planned in job.runs if planned.repeat == r] for r in (1, 2, 3)]
        assert all(sorted(names) == sorted(rounds[0]) and len(names) == 2 for names in rounds)
        assert rounds[0] != rounds[1] or rounds[1] != rounds[2]  # no cell is always first
        repeats = [planned.repeat for planned in job.runs]
        assert repeats == sorted(repeats)
    assert {planned.folder for job in jobs for planned in job.runs} == {p.folder for p in order_of(grid, 3)}


def test_a_cells_job_holds_its_repeats() -> None:
    grid = cells([1, 2], [8])
    jobs = jobs_by_cell(grid, shapes_of([1], [1, 2]), repeats=2)
    assert [[planned.folder for planned in job.runs] for job in jobs] == [
        ["runs/n1-b8/r1", "runs/n1-b8/r2"],
        ["runs/n2-b8/r1", "runs/n2-b8/r2"],
    ]


def test_runs_do_not_record_how_they_were_launched(tmp_path: Path) -> None:
    grid = cells([1], [8])
    overrides = ["launch.partition=gpu", "launch.prologue='ulimit -n 4096'", "model.d_model=64"]
    loaded = load_cells(grid, None, overrides)
    assert loaded["n1-b8"].config.launch.partition == "gpu"
    stripped = {name: without_launch(each) for name, each in loaded.items()}
    write_configs(stripped, tmp_path)
    read_back = load(tmp_path / "jobs/n1-b8.yaml").config
    assert read_back == load(None, ["model.d_model=64", "train.global_batch=8"]).config
