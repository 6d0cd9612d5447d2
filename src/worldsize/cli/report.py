"""`worldsize report`: what a study or a set of runs found, as a page or as data."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import JsonOption
from worldsize.errors import UserError, unknown

if TYPE_CHECKING:
    from worldsize.study.records import StudyResult

FORMATS = ("html", "json", "markdown", "csv")


def report(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="A study's folder, or any run folders.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; '-' is standard output.", show_default=False),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="html, json, markdown or csv.")] = "html",
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
    worldsize report out/study --format csv --out cells.csv
    worldsize report out/one out/two out/four             any runs; writes report.html here
    worldsize report out/study --json | jq .verdict

    HTML goes into the study's folder unless --out says otherwise; the other formats go to standard output.
    """
    if format_ not in FORMATS:
        raise unknown("format", format_, FORMATS)
    result, folder = results(paths, override)
    if title is not None:
        result = result.model_copy(update={"title": title})
    if json_:
        sys.stdout.write(result.model_dump_json(indent=2) + "\n")
        return
    text = rendered(result, folder, format_)
    if out is None and format_ == "html":
        out = folder / "report.html"
    if out is None or str(out) == "-":
        sys.stdout.write(text)
        return
    write(out, text)
    print(f"wrote {out} ({len(text.encode()) / 1000:,.0f} kB)", file=sys.stderr)


def results(paths: list[Path], override: bool) -> tuple[StudyResult, Path]:
    """Analyse what the paths hold. Returns the results and the folder that their runs' names start from.

    Raises UserError when a path is neither a study nor a run, or when they are mixed.
    """
    from worldsize.study.results import analyse, from_runs

    studies = [path for path in paths if (path / "study.json").is_file()]
    for path in paths:
        if path not in studies and not (path / "run.json").is_file():
            raise UserError(
                f"{path} {_what_it_is(path)}. Give the folder of a study (it holds study.json), or folders of runs "
                f"(each holds run.json and, once finished, result.json)."
            )
    if len(studies) == 1 and len(paths) == 1:
        return analyse(studies[0], override), studies[0]
    if studies:
        raise UserError(
            f"{studies[0]} is a study, and comes alone. To compare across studies give run folders: "
            f"{studies[0]}/runs/*/* …"
        )
    return from_runs(paths, override=override), Path()


def _what_it_is(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    return "is not a folder" if not path.is_dir() else "holds neither a study nor a run"


def rendered(result: StudyResult, folder: Path, format_: str) -> str:
    """Return the report's text in one of FORMATS."""
    if format_ == "html":
        from worldsize.report.html import render

        return render(result, folder)
    if format_ == "json":
        return result.model_dump_json(indent=2) + "\n"
    from worldsize.report.export import as_csv
    from worldsize.report.markdown import markdown
    from worldsize.report.study_document import study_document

    return markdown(study_document(result, folder)) if format_ == "markdown" else as_csv(result)


def write(out: Path, text: str) -> None:
    """Write the file whole or not at all. Raises UserError when it cannot be written."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(out)
    except OSError as error:
        if part.is_file():
            part.unlink()
        raise UserError(f"cannot write {out}: {error.strerror}. Give another file with --out.") from error
