"""A document as PDF: by the TeX installation where there is one, else by typst."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from worldsize.errors import UserError
from worldsize.report.document import Document
from worldsize.report.latex import write_latex
from worldsize.report.typst_pdf import compile_typst, has_typst

TIMEOUT_S = 300
ENGINES: dict[str, list[str]] = {
    "latexmk": ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
    "tectonic": ["tectonic", "report.tex"],
    "pdflatex": ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"],
    "lualatex": ["lualatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"],
}
"""The TeX commands that are looked for, in this order. The report refers to nothing, so that one pass suffices."""


def write_pdf(document: Document, out: Path) -> str:
    """Write the document to `out` and return the name of what compiled it.

    A TeX that fails (a package is missing, say) makes way for typst. Raises UserError when nothing can compile it.
    """
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: there is no folder {out.parent}. Make it, or give another --out.")
    engine = next((name for name in ENGINES if shutil.which(name)), None)
    complaint = compile_latex(document, out, engine) if engine else None
    if engine and complaint is None:
        return engine
    if has_typst():
        compile_typst(document, out)
        return "typst"
    if engine:
        raise UserError(
            f"{engine} could not compile the report: {complaint}. Install what is missing, or type "
            "`pip install 'worldsize[pdf]'` to set it with typst instead."
        )
    raise UserError(
        f"a PDF needs typst (type `pip install 'worldsize[pdf]'`) or a TeX installation ({', '.join(ENGINES)}); none "
        "was found. `--format latex` writes the source all the same, and any browser prints the HTML page."
    )


def compile_latex(document: Document, out: Path, engine: str) -> str | None:
    """Compile with a TeX engine; return None, or what it complained of first."""
    with tempfile.TemporaryDirectory(prefix="worldsize-") as name:
        folder = Path(name)
        write_latex(document, folder)
        try:
            done = subprocess.run(
                ENGINES[engine],
                cwd=folder,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return f"no end after {TIMEOUT_S} s"
        written = folder / "report.pdf"
        if done.returncode == 0 and written.is_file():
            shutil.copyfile(written, out)
            return None
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.startswith(("!", "error"))]
        return lines[0] if lines else f"exit status {done.returncode}"
