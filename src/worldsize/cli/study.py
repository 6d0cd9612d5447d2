"""`worldsize study`: which speedup does each added device bring?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import (
    ConfigArguments,
    GlobalBatchOption,
    HostsOption,
    JsonOption,
    LinksOption,
    OverrideOption,
    PresetOption,
    ScalingOption,
    StudyFolderOption,
    VaryOption,
    lab_overrides,
    scaling_mode,
    split_config,
)
from worldsize.errors import UserError

if TYPE_CHECKING:
    from worldsize.config.load import Loaded
    from worldsize.config.schema import Config
    from worldsize.study.grid import Cell
    from worldsize.study.records import StudyPlan, StudyResult
    from worldsize.study.remedies import Load

REPEATS = 3
REPEATS_WITH_UNTIL = 5
"""Stopping once the interval looks narrow favours intervals that are too narrow; with fewer rounds they would hold the
truth too seldom (docs/explain/intervals.md)."""


def study(
    config: ConfigArguments = None,
    preset: PresetOption = None,
    nproc: Annotated[
        str | None,
        typer.Option(metavar="1,2,4", help="World sizes. Default: powers of two up to the number of cores, or GPUs."),
    ] = None,
    global_batch: GlobalBatchOption = None,
    vary: VaryOption = None,
    scaling: ScalingOption = "strong",
    repeats: Annotated[
        int | None,
        typer.Option(metavar="R", min=1, help="Runs of each cell, in interleaved rounds. Default: 3, 5 with --until."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="3%", help="Repeat further until each speedup's interval is so narrow, cell by cell."),
    ] = None,
    max_repeats: Annotated[int, typer.Option(metavar="R", min=1, help="With --until: runs of each cell at most.")] = 10,
    target_loss: Annotated[
        float | None,
        typer.Option(metavar="LOSS", min=0.0, help="Time to this loss. Default: the smallest that all cells reach."),
    ] = None,
    hosts: HostsOption = None,
    link: LinksOption = None,
    try_remedies: Annotated[
        bool, typer.Option("--try-remedies", help="Run remedies for cells slower than their baseline, loss beside.")
    ] = False,
    out: StudyFolderOption = None,
    override: OverrideOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the grid; run and write nothing.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Say which speedup each added device brings.

    \b
    worldsize study --preset tiny --nproc 1,2
    worldsize study run.yaml --nproc 1,2,4 --global-batch 64,128 --out out/batches
    worldsize study run.yaml --nproc 1,2 --vary model.num_layers=2,4 --repeats 5
    worldsize study --preset tiny --nproc 1,2 --until 3%
    worldsize study run.yaml model.d_model=256 --scaling weak --dry-run
    worldsize study run.yaml --nproc 1,2 --hosts 2 --link 1gbit,100mbit --try-remedies

    It trains at several world sizes. Every cell of the grid runs several times, in rounds, so that drift hits all
    alike. A speedup is given only for the same work: the same samples, model, precision, optimizer and code. The
    folder keeps every run and report.html. The same command goes on where it stopped and tries failed runs again; it
    may add world sizes, batches or repeats.
    """
    from worldsize.config.load import load
    from worldsize.study.grid import cells_of, load_cells, parse_counts, parse_share, parse_vary
    from worldsize.study.runner import base_plan

    path, overrides = split_config(config)
    links = [part.strip() for part in link.split(",")] if link else []
    overrides += lab_overrides(hosts, links[0] if len(links) == 1 else None)
    vary = [*(vary or []), *([f"lab.link={','.join(links)}"] if len(links) > 1 else [])]
    mode = scaling_mode(scaling)
    base = load(path, overrides, preset).config
    plan = base_plan(
        base,
        world_sizes=parse_counts(nproc, "--nproc") if nproc else default_world_sizes(base),
        global_batches=parse_counts(global_batch, "--global-batch") if global_batch else None,
        vary=parse_vary(vary),
        scaling=mode,
        repeats=repeats or (REPEATS_WITH_UNTIL if until else REPEATS),
        command=["worldsize", *sys.argv[1:]],
        until=parse_share(until, "--until") if until else None,
        max_repeats=max_repeats,
        target_loss=target_loss,
        try_remedies=try_remedies,
    )
    cells = cells_of(plan)
    loaded = load_cells(cells, path, overrides, preset)
    folder = out or Path("out") / (path.stem if path else preset or "study")
    if dry_run:
        _show_grid(plan, cells, folder, json_output)
        return
    result = _run(plan, cells, loaded, folder, override, lambda more: load(path, [*overrides, *more], preset))
    _show_result(result, folder, json_output)
    if any(cell.failures for cell in result.cells):
        raise typer.Exit(1)


def default_world_sizes(config: Config) -> list[int]:
    """Return 1, 2, 4 … up to the devices this machine has: GPUs where there are some, else groups of cores."""
    num_gpus = len(list(Path("/dev").glob("nvidia[0-9]*"))) if config.device.kind != "cpu" else 0
    if config.device.kind == "cuda" and not num_gpus:
        raise UserError("no GPU is visible in /dev to count. Type the world sizes, e.g. --nproc 1,2.")
    num_devices = num_gpus or max(1, len(os.sched_getaffinity(0)) // config.device.threads_per_rank)
    return [2**power for power in range(num_devices.bit_length())]


def _run(
    plan: StudyPlan, cells: list[Cell], loaded: dict[str, Loaded], folder: Path, override: bool, load: Load
) -> StudyResult:
    from rich.console import Console

    from worldsize.launch.local import launch
    from worldsize.study.live import Display
    from worldsize.study.runner import run_study

    display = Display(Console(stderr=True))
    return run_study(plan, cells, loaded, folder, display=display, launch=launch, override=override, load=load)


def _show_grid(plan: StudyPlan, cells: list[Cell], folder: Path, json_output: bool) -> None:
    from worldsize.study.grid import order_of

    if json_output:
        typer.echo(plan.model_dump_json(indent=1))
        return
    repeats = str(plan.repeats)
    if plan.until:
        repeats += f" to {plan.num_rounds}"
    typer.echo(f"{len(cells)} cells × {repeats} repeats, {plan.scaling} scaling, into {folder}:")
    for cell in cells:
        role = "baseline" if cell.baseline == cell.name else f"compared with {cell.baseline}"
        typer.echo(f"  {cell.name}: world size {cell.world_size}, global batch {cell.global_batch}, {role}")
    rounds = order_of(cells, plan.repeats)
    for repeat in range(1, plan.repeats + 1):
        typer.echo(f"round {repeat}: {', '.join(p.cell.name for p in rounds if p.repeat == repeat)}")


def _show_result(result: StudyResult, folder: Path, json_output: bool) -> None:
    if json_output:
        typer.echo(result.model_dump_json(indent=1))
        return
    from rich.console import Console

    from worldsize.report.table import WIDTH, table, verdict_text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table(result), verdict_text(result.verdict), f"\nReport: {folder / 'report.html'}", markup=False)
