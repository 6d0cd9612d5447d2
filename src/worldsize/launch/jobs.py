"""From a study's cells to an engine's jobs: which runs share a job, and in which order. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldsize.config.around import LaunchConfig
from worldsize.config.load import Loaded, from_dict
from worldsize.config.write import to_yaml
from worldsize.errors import UserError
from worldsize.records import Origin
from worldsize.run_folder import is_finished
from worldsize.study.grid import Cell, Planned, order_of

FOLDER = "jobs"
"""Where a study keeps its jobs' configs, scripts and logs."""


@dataclass(frozen=True)
class Shape:
    """How a world size lies on machines."""

    num_nodes: int
    ranks_per_node: int

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.ranks_per_node

    def __str__(self) -> str:
        return f"{self.num_nodes} × {self.ranks_per_node}"


@dataclass(frozen=True)
class Job:
    """Runs of one shape that an engine carries out one after another."""

    name: str
    shape: Shape
    runs: tuple[Planned, ...]

    def unfinished(self, out: Path) -> list[Planned]:
        """Return the runs without a result, in order."""
        return [planned for planned in self.runs if not is_finished(out / planned.folder)]


def shapes_of(nodes: Sequence[int], ranks_per_node: Sequence[int]) -> dict[int, Shape]:
    """Return world size → shape for every product. Raises UserError where two shapes have one world size."""
    shapes: dict[int, Shape] = {}
    for shape in (Shape(num_nodes, ranks) for num_nodes in nodes for ranks in ranks_per_node):
        other = shapes.setdefault(shape.world_size, shape)
        if other != shape:
            raise UserError(
                f"{other} and {shape} (nodes × devices a node) both are world size {shape.world_size}, and a study "
                "compares world sizes. Give one number of nodes, or one number of devices a node."
            )
    return shapes


def jobs_by_world_size(cells: Sequence[Cell], shapes: Mapping[int, Shape], repeats: int) -> list[Job]:
    """Return one job a world size: no device of it idles, and its cells take turns in every round."""
    order = order_of(cells, repeats)
    return [
        Job(f"n{size}", shape, tuple(planned for planned in order if planned.cell.world_size == size))
        for size, shape in sorted(shapes.items())
    ]


def jobs_by_cell(cells: Sequence[Cell], shapes: Mapping[int, Shape], repeats: int) -> list[Job]:
    """Return one job a cell, with all its repeats."""
    return [
        Job(cell.name, shapes[cell.world_size], tuple(Planned(cell, repeat) for repeat in range(1, repeats + 1)))
        for cell in cells
    ]


def without_launch(loaded: Loaded) -> Loaded:
    """Return the config that a run records: how it was launched is not part of what it is."""
    tree = loaded.config.model_dump()
    tree["launch"] = LaunchConfig().model_dump()
    config = from_dict(tree)
    defaults = {
        f"launch.{key}": Origin(value=value, source="default") for key, value in config.launch.model_dump().items()
    }
    return Loaded(config, loaded.origins | defaults)


def config_path(cell_name: str) -> str:
    """Return where a cell's config lies, relative to the study."""
    return f"{FOLDER}/{cell_name}.yaml"


def write_configs(loaded: Mapping[str, Loaded], out: Path) -> None:
    """Write each cell's whole config: what the job's `worldsize train` reads."""
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, each in loaded.items():
        (out / config_path(name)).write_text(to_yaml(each), encoding="utf-8")
