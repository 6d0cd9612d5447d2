"""A document as PDF by typst, from our own template; needs the Python package of that name (extra `pdf`)."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

from worldsize.report.document import Document
from worldsize.report.paper import FIGURES, draw_figures, tree

TEMPLATE = Path(__file__).parent / "templates" / "report.typ"


def has_typst() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("typst") is not None


def compile_typst(document: Document, out: Path) -> None:
    """Write the document to `out`. Text goes to the template as data, so that none of it can be read as markup."""
    import typst

    with tempfile.TemporaryDirectory(prefix="worldsize-") as name:
        folder = Path(name)
        draw_figures(document, folder / FIGURES)
        (folder / "report.json").write_text(json.dumps(tree(document)), encoding="utf-8")
        shutil.copy(TEMPLATE, folder / "report.typ")
        typst.compile(folder / "report.typ", output=out, root=folder)
