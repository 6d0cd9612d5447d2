"""`worldsize audit`: which comparisons stand, in our own studies and in other people's numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import JsonOption
from worldsize.errors import unknown

if TYPE_CHECKING:
    from worldsize.audit.records import Audit

FORMATS = ("text", "html", "markdown", "json")


def audit(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="A study, run folders, or files of numbers; N=FILE adds the devices."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; '-' is standard output.", show_default=False),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="text, html, markdown or json; by --out's ending where left out.", show_default=False
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Say which speedups stand, in anybody's numbers.

    Each comparison along the devices stands, does not stand, or cannot be told; with the rule that says so, and what
    the number would be where the data allow it.

    \b
    worldsize audit out/study                    our own study: the rules that its report obeys
    worldsize audit numbers.csv                  a column a quantity, all optional: devices, time_s, samples ...
    worldsize audit 1=one.csv 4=four.csv         one file a run, with a row an epoch
    worldsize audit metrics.json --json | jq '.comparisons[] | {name, status}'

    The columns are described in docs/reference/audit-format.md, the rules in docs/explain/audit-rules.md.
    """
    from worldsize.audit.paths import audit_paths
    from worldsize.cli.report_output import write

    format_ = "json" if json_ else _format(format_, out)
    found = audit_paths(paths)
    text = rendered(found, format_)
    if out is None or str(out) == "-":
        sys.stdout.write(text)
    else:
        write(out, text)
        print(f"wrote {out} ({len(text.encode()) / 1000:,.0f} kB)", file=sys.stderr)


def _format(given: str | None, out: Path | None) -> str:
    if given is None:
        endings = {".html": "html", ".md": "markdown", ".json": "json"}
        return endings.get(out.suffix.lower(), "text") if out else "text"
    if given not in FORMATS:
        raise unknown("format", given, FORMATS)
    return given


def rendered(found: Audit, format_: str) -> str:
    """Return the audit's text in one of FORMATS."""
    if format_ == "json":
        return found.model_dump_json(indent=2) + "\n"
    if format_ == "html":
        from worldsize.audit.page import html

        return html(found)
    from worldsize.audit import render

    return render.markdown(found) if format_ == "markdown" else render.text(found)
