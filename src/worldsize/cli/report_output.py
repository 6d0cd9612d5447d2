"""Where and how `worldsize report` writes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from worldsize.cli.report_source import Source
from worldsize.errors import UserError
from worldsize.report.cost import Request

if TYPE_CHECKING:
    from worldsize.report.document import Document

FIGURE_FORMATS = ("svg", "pdf", "png")


def document(source: Source, request: Request) -> Document:
    """Return the report by its template, before it has a format."""
    if source.template == "proposal":
        from worldsize.report.cost import plan
        from worldsize.report.proposal import Measurement, proposal_document

        main = Measurement(source.result, source.folder)
        return proposal_document(main, source.other, plan(source.result, request))
    from worldsize.report.study_document import study_document

    return study_document(source.result, source.folder)


def twin(source: Source, request: Request) -> str:
    """Return the JSON that the report is made from: the study's result; for a proposal both results and the plan."""
    if source.template == "study":
        return source.result.model_dump_json(indent=2) + "\n"
    from worldsize.report.cost import plan

    parts = {
        "plan": plan(source.result, request).model_dump(mode="json"),
        "study": source.result.model_dump(mode="json"),
        "other_scaling": source.other.model_dump(mode="json") if source.other else None,
    }
    return json.dumps(parts, indent=2, ensure_ascii=False) + "\n"


def write_report(source: Source, request: Request, format_: str, out: Path | None) -> None:
    """Write the report; PDF and LaTeX are files, and never go to standard output."""
    stem = "report" if source.template == "study" else "proposal"
    if format_ == "csv":
        from worldsize.report.export import as_csv

        put(as_csv(source.result), out)
        return
    made = document(source, request)
    if format_ == "markdown":
        from worldsize.report.markdown import markdown

        put(markdown(made), out)
    elif format_ == "html":
        from worldsize.report.html import page

        put(page(made), out or source.folder / f"{stem}.html")
    elif format_ == "latex":
        _write_latex(made, _path(out, source.folder / f"{stem}-latex"))
    else:
        _write_pdf(made, _path(out, source.folder / f"{stem}.pdf"))


def _path(out: Path | None, otherwise: Path) -> Path:
    if out is not None and str(out) == "-":
        raise UserError("PDF and LaTeX are no text for standard output. Give a path with --out, or leave it out.")
    return out or otherwise


def _write_latex(made: Document, out: Path) -> None:
    """Write a folder; `--out name.tex` names the source, its figures go beside it."""
    from worldsize.report.latex import write_latex

    try:
        path = write_latex(made, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}. Give another folder with --out.") from error
    print(f"wrote {path} and {len(made.plates)} figures beside it", file=sys.stderr)


def _write_pdf(made: Document, out: Path) -> None:
    from worldsize.report.pdf import write_pdf

    engine = write_pdf(made, out)
    print(f"wrote {out} ({out.stat().st_size / 1000:,.0f} kB, set with {engine})", file=sys.stderr)


def write_figures(source: Source, request: Request, folder: Path) -> str:
    """Write every figure of the report in every format; return what was written, in words."""
    from worldsize.report.paper import draw_figures

    try:
        paths = draw_figures(document(source, request), folder, FIGURE_FORMATS)
    except OSError as error:
        raise UserError(f"cannot write figures into {folder}: {error.strerror}. Give another --figures.") from error
    return f"wrote {len(paths)} files, {len(paths) // len(FIGURE_FORMATS)} figures, into {folder}"


def put(text: str, out: Path | None) -> None:
    """Write text to a file, and say so, or to standard output."""
    if out is None or str(out) == "-":
        sys.stdout.write(text)
        return
    write(out, text)
    print(f"wrote {out} ({len(text.encode()) / 1000:,.0f} kB)", file=sys.stderr)


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
