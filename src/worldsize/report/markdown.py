"""A document as GitHub-flavoured Markdown, for people who paste. Figures are named, not shown. Torch-free."""

from __future__ import annotations

import re

from worldsize.report import labels
from worldsize.report.document import (
    Block,
    Code,
    Document,
    Facts,
    Finding,
    Findings,
    Heading,
    Lines,
    Plates,
    Section,
    Sheet,
    Terms,
    Words,
)
from worldsize.report.rows import Value

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$&])")


def markdown(document: Document) -> str:
    """Return the document in its own order."""
    lines = [f"# {escaped(document.headline)}", "", escaped(f"{document.title}. {document.byline}."), ""]
    for section in document.sections:
        lines += _section(section)
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    for block in section.blocks:
        set_block = _block(block)
        lines += [*set_block, ""] if set_block else []
    return lines


def _block(block: Block) -> list[str]:
    """Return a block's lines; empty for what Markdown leaves out."""
    match block:
        case Heading(text):
            return [f"### {escaped(text)}"]
        case Words(text):
            return [escaped(text)]
        case Lines(items):
            return [f"- {escaped(item)}" for item in items]
        case Sheet():
            return _table(block)
        case Plates(items):
            return [f"- **Figure {p.number}. {p.title}.** {escaped(p.caption)}" for p in items]
        case Findings(findings):
            return [_finding(finding) for finding in findings]
        case Terms(terms):
            return [
                f"- **{escaped(t.term)}.** {escaped(f'{t.formula}. ' if t.formula else '')}{escaped(t.text)}"
                for t in terms
            ]
        case Facts(facts):
            return [f"- **{escaped(name)}:** {escaped(text)}" for name, text in facts]
        case Code(text, summary):
            return [] if summary else [f"    {labels.plain(text)}"]


def _table(sheet: Sheet) -> list[str]:
    table = sheet.table
    heads = [f"{column.title} ({column.unit})" if column.unit else column.title for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    notes = table.notes
    body = [[_entry(value, notes) for _, value in row] for row in table.rows]
    lines = [f"**Table {sheet.number}.** {escaped(table.caption)}", ""]
    lines += [_line([escaped(head) for head in heads]), _line(rule), *map(_line, body)]
    return [*lines, "", *(f"{index}. {escaped(note)}" for index, note in enumerate(notes, start=1))]


def _entry(value: Value, notes: list[str]) -> str:
    text = escaped(f"{value.text}{value.mark} ({value.interval})" if value.interval else value.text + value.mark)
    return f"{text} ({notes.index(value.note) + 1})" if value.note else text


def _line(entries: list[str]) -> str:
    return f"| {' | '.join(entries)} |"


def _finding(finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    return f"- {escaped(f'{where}{finding.rule} ({finding.severity}): {finding.message}')}"


def escaped(text: str) -> str:
    """Return `text` on one line, so that none of it is read as Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", labels.plain(text))
