"""A document as LaTeX: one file that any engine compiles, booktabs tables, figures as PDF beside it. Torch-free."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from worldsize.report.document import Document
from worldsize.report.paper import FIGURES, draw_figures, tree

TEMPLATES = Path(__file__).parent / "templates"
ROWS_A_PAGE = 20
"""Rows of a table, two lines each, that surely fit on a page."""

_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": "'", "-": r"{-}", "–": "--", "—": "---", "−": r"\ensuremath{-}",
    "×": r"\ensuremath{\times}", "·": r"\ensuremath{\cdot}", "±": r"\ensuremath{\pm}", "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}", "≈": r"\ensuremath{\approx}", "→": r"\ensuremath{\rightarrow}",
    "∞": r"\ensuremath{\infty}", "Σ": r"\ensuremath{\Sigma}", "α": r"\ensuremath{\alpha}", "β": r"\ensuremath{\beta}",
    "σ": r"\ensuremath{\sigma}", "κ": r"\ensuremath{\kappa}", "µ": r"\ensuremath{\mu}", "μ": r"\ensuremath{\mu}",
    "Δ": r"\ensuremath{\Delta}", "²": r"\ensuremath{^2}", "†": r"\ensuremath{\dagger}", "…": r"\ldots{}",
    "○": r"\ensuremath{\circ}", "°": r"\ensuremath{^\circ}", "√": r"\ensuremath{\surd}", "\u00a0": "~",
    "\u2060": "", "“": "``", "”": "''", "‘": "`", "’": "'",
}  # fmt: skip
_UNSAFE = re.compile(r"[^A-Za-z0-9 .,:;!?()\[\]/+=*@]")


def escape(text: str) -> str:
    """Return `text` so that LaTeX sets it as it stands. What T1 fonts lack is set as its code point, [U+4E2D]."""
    return _UNSAFE.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    sign = match[0]
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign.isascii():
        return sign if sign.isprintable() else " "
    if "LATIN" in unicodedata.name(sign, "") and ord(sign) < 0x180:
        return sign
    return f"[U+{ord(sign):04X}]"


def latex(document: Document) -> str:
    """Return the document's LaTeX source; it looks for its figures in figures/KEY.pdf."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        finalize=_finalize,
    )
    templates.filters["tex"] = Markup
    templates.filters["pages"] = lambda rows: [rows[i : i + ROWS_A_PAGE] for i in range(0, len(rows), ROWS_A_PAGE)]
    source = templates.get_template("report.tex.j2").render(report=tree(document))
    return re.sub(r"\n{3,}", "\n\n", source)


def _finalize(value: Any) -> Any:
    """Escape every text that the template prints; `| tex` marks what is LaTeX already."""
    return value if isinstance(value, Markup) else escape(str(value))


def write_latex(document: Document, folder: Path) -> Path:
    """Write report.tex and its figures into `folder`; return the path of the source."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_figures(document, folder / FIGURES)
    path = folder / "report.tex"
    path.write_text(latex(document), encoding="utf-8")
    return path
