"""`worldsize report`: what a study or a set of runs found, as a page, a paper, or data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from worldsize.cli.arguments import JsonOption
from worldsize.errors import UserError, unknown

FORMATS = ("html", "pdf", "latex", "markdown", "csv", "json")
TEMPLATES = ("study", "proposal")


def report(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="A study's folder, or any run folders.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; '-' is standard output.", show_default=False),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="html, pdf, latex, markdown, csv or json.")] = "html",
    template: Annotated[
        str, typer.Option("--template", help="study, or proposal: for compute-time applications.")
    ] = "study",
    devices: Annotated[
        int | None, typer.Option("--devices", metavar="N", help="Proposal: devices asked for.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Proposal: steps to train.", show_default=False)
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", metavar="N", help="Proposal: tokens to train on.", show_default=False)
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", metavar="DIR", help="Write every figure there too: SVG, PDF, PNG.", show_default=False
        ),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="What the report is called.", show_default=False)] = None,
    override: Annotated[
        bool, typer.Option("--override", help="Print refused speedups all the same, visibly marked.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Explain what was measured, on one page or as data.

    Verdict first, then why, what to try next, evidence, problems, method and environment.

    \b
    worldsize report out/study                            one HTML file, out/study/report.html, that opens offline
    worldsize report out/study --format pdf               out/study/report.pdf, set by TeX or typst
    worldsize report out/study --format latex             a folder, out/study/report-latex, for a paper's appendix
    worldsize report out/study --format csv --out cells.csv
    worldsize report out/study --figures figures          every figure as SVG, PDF and PNG
    worldsize report out/one out/two out/four             any runs; writes report.html here
    worldsize report out/study --template proposal --devices 8 --tokens 2000000000
    worldsize report out/study --json | jq .verdict

    HTML, PDF and LaTeX go into the study's folder unless --out says otherwise; the other formats go to standard output.
    """
    from worldsize.cli import report_output, report_source
    from worldsize.report.cost import Request, check

    if format_ not in FORMATS:
        raise unknown("format", format_, FORMATS)
    if template not in TEMPLATES:
        raise unknown("template", template, TEMPLATES)
    request = Request.model_construct(devices=devices, steps=steps, tokens=tokens)
    check(request)
    if template == "study" and request != Request():
        raise UserError("--devices, --steps and --tokens say what to apply for. Add --template proposal.")
    if template == "proposal" and format_ == "csv":
        raise UserError("a proposal is no table of cells. Give --format html, pdf, latex, markdown or json.")
    source = report_source.read(paths, override, title, template)
    if figures is not None:
        print(report_output.write_figures(source, request, figures), file=sys.stderr)
    if json_ or format_ == "json":
        report_output.put(report_output.twin(source, request), None if json_ else out)
        return
    report_output.write_report(source, request, format_, out)
