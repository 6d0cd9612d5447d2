"""`worldsize train`: one run, on this machine or as one rank under torchrun."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import (
    ConfigArguments,
    JsonOption,
    NprocOption,
    PresetOption,
    check_nproc,
    split_config,
    warn,
)

if TYPE_CHECKING:
    from worldsize.config.load import Loaded


def train(
    config: ConfigArguments = None,
    preset: PresetOption = None,
    nproc: NprocOption = 1,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the run.")] = Path("out/run"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest whole checkpoint in --out, where there is one.")
    ] = False,
    max_restarts: Annotated[
        int,
        typer.Option(
            "--max-restarts",
            metavar="N",
            min=0,
            help="When a rank dies, start all again from the newest checkpoint, up to N times.",
        ),
    ] = 0,
    json_output: JsonOption = False,
) -> None:
    """Train one model once and measure every step.

    \b
    worldsize train --preset tiny --out out/tiny
    worldsize train run.yaml train.steps=200 --nproc 2 --out out/two
    torchrun --nproc-per-node 2 -m worldsize train run.yaml --out out/two
    worldsize train run.yaml checkpoint.every_steps=100 --max-restarts 3 --out out/safe
    worldsize train run.yaml checkpoint.every_steps=100 --resume --out out/safe

    The folder then holds run.json (what ran), steps.rank*.jsonl (a row a step) and result.json (what was measured,
    written last). A finished run is never overwritten: the same command does nothing, another config is refused.
    """
    from worldsize.config.load import load
    from worldsize.config.rules import check

    world_size = int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else nproc
    check_nproc(world_size)
    path, overrides = split_config(config)
    loaded = load(path, overrides, preset)
    check(loaded.config, world_size)
    warn(loaded.config)
    if "RANK" in os.environ:
        ran = _as_a_rank(loaded, world_size, out, resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0)
    else:
        ran = _here(loaded, world_size, out, resume, max_restarts)
    if os.environ.get("RANK", "0") == "0":
        if not ran:
            print(f"{out} already holds this run, finished: nothing to do.", file=sys.stderr)
        _show(out, json_output)


def _here(loaded: Loaded, world_size: int, out: Path, resume: bool, max_restarts: int) -> bool:
    from worldsize.launch.local import launch
    from worldsize.launch.progress import shown

    with shown() as say:
        return launch(
            loaded,
            world_size=world_size,
            out=out,
            command=sys.argv,
            on_progress=say,
            resume=resume,
            max_restarts=max_restarts,
        )


def _as_a_rank(loaded: Loaded, world_size: int, out: Path, resume: bool) -> bool:
    """Be the rank that torchrun started; one that it started again resumes without being told."""
    from worldsize.errors import RunError
    from worldsize.launch.local import details_name, keep_details, resolved_for
    from worldsize.launch.progress import PlainLines, silent
    from worldsize.launch.rendezvous import check_rendezvous
    from worldsize.train.worker import RankFailed, run_rank

    if world_size > 1:
        check_rendezvous()
    say = PlainLines(sys.stderr) if os.environ["RANK"] == "0" else silent
    resolved = resolved_for(loaded, world_size, say)
    try:
        return run_rank(resolved, out, sys.argv, say, resume=resume)
    except RankFailed as failure:
        keep_details(failure.rank, failure.details, out)
        raise RunError(f"{failure.message} Details: {out / details_name(failure.rank)}") from failure


def _show(out: Path, json_output: bool) -> None:
    from worldsize.report.run_text import run_text
    from worldsize.run_folder import RESULT
    from worldsize.study.results import from_runs, read_run

    if json_output:
        print((out / RESULT).read_text(encoding="utf-8"), end="")
        return
    run = read_run(out)
    problems = [p for cell in from_runs([out]).cells for p in cell.problems if p.rule != "few-repeats"]
    print(run_text(run.record, run.result, problems))
    print(f"{'folder':<11}{out}")
