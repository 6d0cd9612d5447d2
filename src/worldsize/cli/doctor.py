"""`worldsize doctor`: what this machine has for training, what is wrong, and how to mend it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import JsonOption

if TYPE_CHECKING:
    from rich.table import Table

    from worldsize.doctor.finding import Examination

STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "none": "dim"}


def doctor(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where runs will be written; its file system is measured.")
    ] = Path("out"),
    json_output: JsonOption = False,
) -> None:
    """Say what this machine has for training, and what is wrong.

    \b
    worldsize doctor
    worldsize doctor --out /scratch/me --json

    It looks at versions, backends, devices, cores, clocks, the way NCCL will take between GPUs, names, ports, the
    clock, shared memory and the file system. ok: fine. warn: runs, but slower or with doubtful figures. fail: will not
    run. none: not here, or cannot be known. Exits with 1 where something fails. Nothing is changed.
    """
    from worldsize.doctor.examine import examine

    examination = examine(out)
    if json_output:
        print(examination.model_dump_json(indent=1))
    else:
        _show(examination)
    if examination.failed:
        raise typer.Exit(1)


def _show(examination: Examination) -> None:
    from rich.console import Console

    from worldsize.report.table import WIDTH

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(_table(examination))
    counts = {status: sum(one.status == status for one in examination.findings) for status in ("fail", "warn")}
    console.print(f"{counts['fail']} fail, {counts['warn']} warn, of {len(examination.findings)} findings.")


def _table(examination: Examination) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "", "found", box=None, pad_edge=False)
    for finding in examination.findings:
        told = Text(finding.found)
        if finding.fix:
            told.append(f"\n→ {finding.fix}", style="bold")
        table.add_row(Text(finding.check), Text(finding.status, style=STYLES[finding.status]), told)
    return table
