"""From the options of `worldsize launch` to what is to be carried out, checked before anything is written."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worldsize.cli.arguments import scaling_mode
from worldsize.errors import UserError, unknown

if TYPE_CHECKING:
    from worldsize.config.load import Loaded
    from worldsize.config.schema import Config
    from worldsize.launch.engine import Engine
    from worldsize.launch.jobs import Job
    from worldsize.launch.records import CostEstimate, EngineName
    from worldsize.study.records import StudyPlan

ENGINES = ("slurm", "modal", "sky")


@dataclass(frozen=True)
class Request:
    """A launch as it was asked for, checked, with nothing written or started yet."""

    plan: StudyPlan
    config: Config
    loaded: dict[str, Loaded]
    jobs: list[Job]
    engine: Engine
    engine_name: EngineName
    out: Path
    json_output: bool
    costs: CostEstimate | None = None


def request_of(
    path: Path | None,
    overrides: list[str],
    preset: str | None,
    *,
    on: str,
    nodes: str,
    gpus_per_node: str | None,
    ranks_per_node: str | None,
    global_batch: str | None,
    vary: list[str],
    scaling: str,
    repeats: int,
    out: Path,
    json_output: bool,
) -> Request:
    """Return the launch that the options ask for. Raises UserError for whatever cannot run; writes nothing."""
    from worldsize.config.load import load
    from worldsize.launch.jobs import jobs_by_cell, jobs_by_world_size, shapes_of, without_launch
    from worldsize.study.grid import cells_of, load_cells, parse_counts, parse_vary
    from worldsize.study.runner import base_plan

    if on not in ENGINES:
        raise unknown("engine", on, ENGINES)
    mode = scaling_mode(scaling)
    if gpus_per_node and ranks_per_node:
        raise UserError("--gpus-per-node and --ranks-per-node both say how many ranks a machine has. Give one.")
    per_node = (
        parse_counts(gpus_per_node, "--gpus-per-node")
        if gpus_per_node
        else parse_counts(ranks_per_node or "1", "--ranks-per-node")
    )
    shapes = shapes_of(parse_counts(nodes, "--nodes"), per_node)
    base = load(path, overrides, preset)
    plan = base_plan(
        without_launch(base).config,
        world_sizes=list(shapes),
        global_batches=parse_counts(global_batch, "--global-batch") if global_batch else None,
        vary=parse_vary(vary),
        scaling=mode,
        repeats=repeats,
        command=["worldsize", *sys.argv[1:]],
    )
    cells = cells_of(plan)
    loaded = {name: without_launch(each) for name, each in load_cells(cells, path, overrides, preset).items()}
    jobs = (jobs_by_world_size if on == "slurm" else jobs_by_cell)(cells, shapes, repeats)
    engine, engine_name = _engine(on, out, base.config, loaded, jobs, has_gpus=bool(gpus_per_node))
    return Request(plan, base.config, loaded, jobs, engine, engine_name, out, json_output)


def _engine(
    on: str, out: Path, config: Config, loaded: dict[str, Loaded], jobs: list[Job], *, has_gpus: bool
) -> tuple[Engine, EngineName]:
    if on == "slurm":
        from worldsize.launch.slurm import Slurm

        return Slurm(out, config, has_gpus=has_gpus), "slurm"
    if on == "modal":
        from worldsize.launch.modal import Modal

        return Modal(out, config, loaded, jobs, has_gpus=has_gpus), "modal"
    from worldsize.launch.sky import Sky

    return Sky(out, config, loaded, has_gpus=has_gpus), "sky"
