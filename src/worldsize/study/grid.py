"""The grid of a study: from options to cells, each checked before anything runs, in the order in which they run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from worldsize.errors import UserError
from worldsize.study.records import StudyPlan

if TYPE_CHECKING:
    from worldsize.config.load import Loaded

Scaling = Literal["strong", "weak"]

OWN_OPTION = {
    "train.global_batch": "--global-batch",
    "parallel.dp": "--nproc (the data-parallel degree follows from the world size)",
}
"""Keys that an axis of the grid sets already."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    name: str
    world_size: int
    global_batch: int
    vary: dict[str, Any]
    baseline: str
    """Name of the cell with the smallest world size and all else equal; its own name where it is that cell."""

    @property
    def overrides(self) -> list[str]:
        """What makes this cell's config out of the base config, as dotted overrides."""
        varied = [f"{key}={as_text(value)}" for key, value in self.vary.items()]
        return [f"train.global_batch={self.global_batch}", *varied]


@dataclass(frozen=True)
class Planned:
    """One run of the order: a cell's repeat."""

    cell: Cell
    repeat: int

    @property
    def folder(self) -> str:
        """The run's folder, relative to the study's."""
        return run_folder(self.cell.name, self.repeat)


def run_folder(cell_name: str, repeat: int) -> str:
    """Return a repeat's folder, relative to the study's; repeats count from 1."""
    return f"runs/{cell_name}/r{repeat}"


def parse_counts(text: str, option: str) -> list[int]:
    """Parse '1,2,4' into sorted, distinct positive integers. Raises UserError naming `option` and the bad part."""
    counts = set()
    for part in text.split(","):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", part) or int(part) < 1:
            raise UserError(
                f"{option} {text!r}: {part.strip()!r} is not a positive whole number. Type, e.g., {option} 1,2,4."
            )
        counts.add(int(part))
    return sorted(counts)


def parse_vary(items: Sequence[str]) -> dict[str, list[Any]]:
    """Parse ['model.num_layers=2,4'] into {'model.num_layers': [2, 4]}. Raises UserError naming the bad item."""
    vary: dict[str, list[Any]] = {}
    for item in items:
        key, equals, values = item.partition("=")
        key = key.strip()
        if not equals or not re.fullmatch(r"[a-z_]+(\.[a-z0-9_]+)+", key) or not values.strip():
            raise UserError(f"--vary {item!r}: type a dotted key and its values, e.g. --vary model.num_layers=2,4.")
        if key in OWN_OPTION:
            raise UserError(f"--vary {item!r}: {key} is set by {OWN_OPTION[key]}.")
        if key in vary:
            raise UserError(f"--vary {key} is given twice; list all its values in one: --vary {key}=A,B.")
        vary[key] = _distinct([_value(part.strip()) for part in values.split(",")])
    return vary


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list({as_text(value): value for value in values}.values())


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, str | int | float | bool | None) else text


def parse_share(text: str, option: str) -> float:
    """Parse '3%' into 0.03. Raises UserError naming `option`; a number without its sign would be ambiguous."""
    found = re.fullmatch(r"\s*([0-9]{1,2}(?:\.[0-9]{1,6})?)\s*%\s*", text)
    if not found or float(found[1]) <= 0:
        raise UserError(f"{option} {text!r}: type a percentage above 0 and below 100, with its sign: {option} 3%.")
    return float(found[1]) / 100


def as_text(value: Any) -> str:
    """Write a config value as an override spells it."""
    return value if isinstance(value, str) else json.dumps(value)


def cells_of(plan: StudyPlan) -> list[Cell]:
    """Return the plan's cells: every varied value × batch × world size, world size fastest.

    Under weak scaling the plan's batches stand for the smallest world size and grow with it; a batch that does not
    grow to a whole number is a UserError. Keys of `parallel` say how ranks share the work, so that on one device all
    their values are one cell, the baseline of them all.
    """
    smallest = min(plan.world_sizes)
    cells: list[Cell] = []
    taken: set[str] = set()
    names: dict[str, str] = {}
    for values in product(*plan.vary.values()):
        vary = dict(zip(plan.vary, values, strict=True))
        for batch in plan.global_batches:
            baseline = None
            for world_size in sorted(plan.world_sizes):
                global_batch = _grown(batch, world_size, smallest) if plan.scaling == "weak" else batch
                own = _axes_at(world_size, vary)
                point = repr((world_size, global_batch, own))
                if point in names:
                    baseline = names[point]
                    continue
                names[point] = cell_name(world_size, global_batch, own, taken)
                baseline = baseline or names[point]
                cells.append(Cell(names[point], world_size, global_batch, own, baseline))
    return cells


def _axes_at(world_size: int, vary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the varied keys that mean something on so many devices."""
    return {key: value for key, value in vary.items() if world_size > 1 or not key.startswith("parallel.")}


def _grown(batch: int, world_size: int, smallest: int) -> int:
    if batch * world_size % smallest:
        raise UserError(
            f"weak scaling from {smallest} devices: a global batch of {batch} does not grow to {world_size} devices "
            f"({batch} × {world_size} / {smallest} is no whole number). Choose a --global-batch that "
            f"{smallest} divides."
        )
    return batch * world_size // smallest


def cell_name(world_size: int, global_batch: int, vary: Mapping[str, Any], taken: set[str]) -> str:
    """Return a short name, safe in a file system, that is not in `taken`; adds it there."""
    leaves = [key.rsplit(".", 1)[-1] for key in vary]
    parts = [f"n{world_size}", f"b{global_batch}"]
    for key, leaf in zip(vary, leaves, strict=True):
        label = leaf if leaves.count(leaf) == 1 else key
        parts.append(label + re.sub(r"[^A-Za-z0-9._]+", "_", as_text(vary[key]))[-24:])
    return _unused("-".join(parts), taken)


def _unused(name: str, taken: set[str]) -> str:
    """Return `name`, numbered where another cell has it (also where only the case of letters differs)."""
    unique, number = name, 2
    while unique.casefold() in taken:
        unique, number = f"{name}-{number}", number + 1
    taken.add(unique.casefold())
    return unique


def order_of(cells: Sequence[Cell], repeats: int) -> list[Planned]:
    """Return all runs in rounds: each round runs every cell once and begins one cell later than the round before.

    So a machine that grows slower, or a neighbour that comes and goes, hits every cell alike.
    """
    return [Planned(cell, repeat) for repeat in range(1, repeats + 1) for cell in rotated(cells, repeat)]


def rotated(cells: Sequence[Cell], repeat: int) -> list[Cell]:
    """Return the cells in the order of round `repeat`."""
    start = (repeat - 1) % len(cells)
    return [*cells[start:], *cells[:start]]


def load_cells(
    cells: Sequence[Cell], path: Path | None, overrides: Sequence[str] = (), preset: str | None = None
) -> dict[str, Loaded]:
    """Load and check every cell's config; nothing has run or been written yet.

    Raises UserError that lists each illegal cell and why.
    """
    from worldsize.config.load import load
    from worldsize.config.rules import check

    loaded: dict[str, Loaded] = {}
    reasons: dict[str, list[str]] = {}
    for cell in cells:
        try:
            loaded[cell.name] = load(path, [*overrides, *cell.overrides], preset)
            check(loaded[cell.name].config, cell.world_size)
        except UserError as error:
            reasons.setdefault(str(error), []).append(cell.name)
    if reasons:
        num_illegal = sum(map(len, reasons.values()))
        lines = [f"{num_illegal} of the grid's {len(cells)} cells cannot run, so nothing was started:"]
        lines += [f"  {', '.join(names)}: {reason}" for reason, names in reasons.items()]
        raise UserError("\n".join(lines))
    return loaded
