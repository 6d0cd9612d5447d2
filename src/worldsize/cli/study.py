"""`worldsize study`: which speedup does each added device bring?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldsize.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from worldsize.config.schema import Config
    from worldsize.records import StudyPlan, StudyResult
    from worldsize.study.grid import Cell


def study(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file, and dotted overrides such as model.d_model=256."
        ),
    ] = None,
    nproc: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,4", help="World sizes. Default: powers of two up to the number of devices (CPU: cores)."
        ),
    ] = None,
    global_batch: Annotated[
        str | None,
        typer.Option(
            metavar="64,128", help="Global batches (weak scaling: at the smallest world size). Default: the config's."
        ),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="One more axis of the grid; may be given several times."),
    ] = None,
    scaling: Annotated[
        str, typer.Option(help="strong: the global batch stays the same. weak: the per-device batch stays the same.")
    ] = "strong",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each cell, in interleaved rounds.")] = 3,
    preset: Annotated[str | None, typer.Option(help="A named config to start from, e.g. tiny.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The study's folder. Default: out/NAME of the config or preset.")
    ] = None,
    override: Annotated[
        bool, typer.Option("--override", help="Print speedups that the same-work gate refuses, with a mark.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the grid; run nothing, write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result's JSON twin and nothing else on standard output.")
    ] = False,
) -> None:
    """Train at several world sizes and say which speedup each added device brings, and why not more.

    Every cell of the grid runs several times, in rounds, so that drift hits all alike. Speedups are given only for the same
    work: the same samples, model, precision, optimizer and code. The folder keeps every run; the same command goes on where
    it stopped, tries failed runs again, and may add world sizes, batches or repeats.

    Examples:

      worldsize study config.yaml --nproc 1,2

      worldsize study --preset tiny --nproc 1,2,4 --global-batch 64,128 --out out/tiny

      worldsize study config.yaml --nproc 1,2 --vary model.num_layers=2,4 --repeats 5

      worldsize study config.yaml model.d_model=256 --scaling weak --dry-run
    """
    from rich.console import Console

    from worldsize.config.load import load
    from worldsize.study.grid import cells_of, load_cells, parse_counts, parse_vary
    from worldsize.study.runner import base_plan

    path, overrides = split_arguments(arguments or [])
    if scaling not in ("strong", "weak"):
        raise unknown("scaling mode", scaling, ("strong", "weak"))
    config = load(path, overrides, preset).config
    plan = base_plan(
        config,
        world_sizes=parse_counts(nproc, "--nproc") if nproc else default_world_sizes(config),
        global_batches=parse_counts(global_batch, "--global-batch") if global_batch else None,
        vary=parse_vary(vary or []),
        scaling="weak" if scaling == "weak" else "strong",
        repeats=repeats,
        command=["worldsize", *sys.argv[1:]],
    )
    cells = cells_of(plan)
    loaded = load_cells(cells, path, overrides, preset)
    folder = out or Path("out") / (path.stem if path else preset or "study")
    if dry_run:
        _show_grid(plan, cells, folder, as_json)
        return
    result = _run(plan, cells, loaded, folder, Console(stderr=True), override)
    _show_result(result, folder, as_json)
    if any(cell.failures for cell in result.cells):
        raise typer.Exit(1)


def split_arguments(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Split [CONFIG] [KEY=VALUE]...: the first word is the config unless it is an override. Raises UserError."""
    first_is_path = bool(arguments) and ("=" not in arguments[0] or Path(arguments[0]).is_file())
    path = Path(arguments[0]) if first_is_path else None
    overrides = arguments[1:] if first_is_path else arguments
    for word in overrides:
        if "=" not in word:
            raise UserError(f"{word!r} is no override. Type KEY=VALUE, e.g. model.d_model=256; options begin with --.")
    return path, overrides


def default_world_sizes(config: Config) -> list[int]:
    """Return 1, 2, 4 … up to the devices this machine has: GPUs where there are some, else groups of cores."""
    num_gpus = len(list(Path("/dev").glob("nvidia[0-9]*"))) if config.device.kind != "cpu" else 0
    if config.device.kind == "cuda" and not num_gpus:
        raise UserError("no GPU is visible in /dev to count. Type the world sizes, e.g. --nproc 1,2.")
    num_devices = num_gpus or max(1, len(os.sched_getaffinity(0)) // config.device.threads_per_rank)
    return [2**power for power in range(num_devices.bit_length())]


def _run(
    plan: StudyPlan, cells: list[Cell], loaded: dict[str, Any], folder: Path, console: Console, override: bool
) -> StudyResult:
    from worldsize.study.live import Display
    from worldsize.study.runner import run_study

    return run_study(plan, cells, loaded, folder, display=Display(console), override=override)


def _show_grid(plan: StudyPlan, cells: list[Cell], folder: Path, as_json: bool) -> None:
    from worldsize.study.grid import order_of

    if as_json:
        typer.echo(plan.model_dump_json(indent=1))
        return
    typer.echo(f"{len(cells)} cells × {plan.repeats} repeats, {plan.scaling} scaling, into {folder}:")
    for cell in cells:
        role = "baseline" if cell.baseline == cell.name else f"compared with {cell.baseline}"
        typer.echo(f"  {cell.name}: world size {cell.world_size}, global batch {cell.global_batch}, {role}")
    rounds = order_of(cells, plan.repeats)
    for repeat in range(1, plan.repeats + 1):
        typer.echo(f"round {repeat}: {', '.join(p.cell.name for p in rounds if p.repeat == repeat)}")


def _show_result(result: StudyResult, folder: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
        return
    from rich.console import Console

    from worldsize.report.table import table, verdict_text

    console = Console(highlight=False)
    console.print(table(result), verdict_text(result.verdict), f"\nReport: {folder / 'report.html'}", markup=False)
