"""A document as one self-contained page that opens offline: no script, no request, light, dark, phone and print."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup

from worldsize.report import labels, svg, theme
from worldsize.report.document import Document, Plate
from worldsize.report.paper import letter
from worldsize.report.study_document import study_document
from worldsize.study.records import StudyResult

TEMPLATES = Path(__file__).parent / "templates"


def render(result: StudyResult, folder: Path | None) -> str:
    """Return a study's page. `folder` is the study's, when its runs are at hand: they tell steps, ranks and origins."""
    return page(study_document(result, folder))


def page(document: Document) -> str:
    """Return the document as a page. Takes about a second, most of it in matplotlib."""
    templates = Templates(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters["plain"] = labels.plain
    templates.filters["prose"] = prose
    templates.filters["letters"] = letter
    templates.filters["drawn"] = drawn
    templates.tests["of_kind"] = lambda block, kind: type(block).__name__ == kind
    return templates.get_template("report.html.j2").render(
        document=document,
        light=Markup(theme.css_variables("light")),
        dark=Markup(theme.css_variables("dark")),
    )


def drawn(plate: Plate) -> Markup:
    """Return a figure as an <svg> element; every text in it is escaped by svg."""
    return Markup(svg.inline(plate.draw(), plate.key.replace("_", "-"), plate.alt))


def prose(text: str) -> str:
    """Return `text` for a paragraph: a range such as 1.7–1.8, and a number and its unit, never part at a line's end."""
    text = re.sub(r"(?<=\d)–(?=\d)", "\u2060–\u2060", labels.plain(text))
    return re.sub(r"(?<=\d) (?=(?:%|ms|s|µs|[KMG]iB)\b|%)", "\u00a0", text)
