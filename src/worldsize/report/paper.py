"""What every paper-like format sets of a document: the same blocks, as plain data, figures as files. Torch-free."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from worldsize.report import labels
from worldsize.report.document import (
    Block,
    Code,
    Document,
    Facts,
    Findings,
    Heading,
    Lines,
    Plates,
    Sheet,
    Terms,
    Words,
)
from worldsize.report.rows import Table

FIGURES = "figures"


def draw_figures(document: Document, folder: Path, formats: tuple[str, ...] = ("pdf",)) -> list[Path]:
    """Write every figure of the document into `folder`, named by its key; return the paths."""
    from worldsize.report.figures import save

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for plate in document.plates:
        figure = plate.draw()
        for suffix in formats:
            path = folder / f"{plate.key}.{suffix}"
            save(figure, path)
            paths.append(path)
    return paths


def tree(document: Document) -> dict[str, Any]:
    """Return the document as plain data for templates. Folded code is left out: a page of paper folds nothing away."""
    return {
        "title": labels.plain(document.title),
        "headline": labels.plain(document.headline),
        "byline": labels.plain(document.byline),
        "sections": [
            {
                "title": section.title,
                "blocks": [found for block in section.blocks if (found := _block(block))["kind"] != "folded"],
            }
            for section in document.sections
        ],
    }


def _block(block: Block) -> dict[str, Any]:
    match block:
        case Heading(text):
            return {"kind": "heading", "text": text}
        case Words(text):
            return {"kind": "words", "text": labels.plain(text)}
        case Lines(items):
            return {"kind": "lines", "items": [labels.plain(item) for item in items]}
        case Sheet(table, number):
            return {"kind": "sheet", "number": number, **_table(table)}
        case Plates(items):
            plates = [{"key": p.key, "number": p.number, "title": p.title, "caption": p.caption} for p in items]
            return {"kind": "plates", "items": plates}
        case Findings(items):
            return {"kind": "findings", "items": [_plain(asdict(f) | {"effect": f.effect}) for f in items]}
        case Terms(terms):
            return {"kind": "terms", "items": [asdict(term) for term in terms]}
        case Facts(facts):
            return {"kind": "facts", "items": [[name, labels.plain(text)] for name, text in facts]}
        case Code(text, summary):
            return {"kind": "folded" if summary else "code", "text": labels.plain(text)}


def _plain(values: dict[str, str]) -> dict[str, str]:
    return {key: labels.plain(text) for key, text in values.items()}


def _table(table: Table) -> dict[str, Any]:
    notes = table.notes
    columns = [{"title": labels.plain(c.title), "unit": c.unit, "numeric": c.numeric} for c in table.columns]
    rows = [
        [
            {
                "text": labels.plain(value.text) + value.mark,
                "interval": value.interval,
                "note": letter(notes.index(value.note)) if value.note else "",
                "absent": bool(value.because),
            }
            for _, value in row
        ]
        for row in table.rows
    ]
    marked = [[letter(index), labels.plain(note)] for index, note in enumerate(notes)]
    return {"caption": table.caption, "columns": columns, "rows": rows, "notes": marked}


def letter(index: int) -> str:
    """Return a, b … z, aa, ab …"""
    text = chr(ord("a") + index % 26)
    return text if index < 26 else letter(index // 26 - 1) + text
