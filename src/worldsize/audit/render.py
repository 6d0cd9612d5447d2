"""An audit for people: plain text and Markdown, from the record and nothing else."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from worldsize.audit.judge import alone
from worldsize.audit.records import Audit, Comparison
from worldsize.audit.text import times_text, value_text
from worldsize.report.labels import plain

WIDTH = 100
RULES_PAGE = "docs/explain/audit-rules.md"


def said(comparison: Comparison) -> list[tuple[str, str]]:
    """Return a comparison as (label, sentence): findings, what the number would be, lost time, what is not told."""
    lines = [(finding.rule, finding.message) for finding in comparison.findings]
    lines += [("would be", correction.text) for correction in comparison.corrections]
    if comparison.lost_time:
        lines.append(("lost time", comparison.lost_time.message))
    return [*lines, *(("not told", missing) for missing in comparison.not_told)]


def figures(comparison: Comparison) -> str:
    """Return the two values and their ratio in one line."""
    values = [value_text(value, comparison.quantity) for value in (comparison.baseline_value, comparison.value)]
    claim = f", {times_text(comparison.claimed)} claimed" if comparison.claimed is not None else ""
    return f"{values[0]} → {values[1]} ({comparison.quantity}): {times_text(comparison.ratio)}{claim}"


def text(audit: Audit) -> str:
    """Return the audit as plain text, at most 100 columns wide where words allow it."""
    blocks = [_wrapped(audit.headline)]
    for comparison in audit.comparisons:
        lines = [f"{comparison.name}: {comparison.status.upper()}", _wrapped(figures(comparison), "  ")]
        blocks.append("\n".join([*lines, *(_labelled(label, sentence) for label, sentence in said(comparison))]))
    for finding in alone(audit.comparisons, audit.findings):
        lines = [finding.where, _labelled(finding.rule, finding.message)]
        blocks.append("\n".join([*lines, *(_labelled("would be", c.text) for c in finding.corrections)]))
    blocks += [_wrapped(f"Note: {note}") for note in audit.notes]
    if any(comparison.findings for comparison in audit.comparisons) or audit.findings:
        blocks.append(f"The rules are explained in {RULES_PAGE}.")
    return "\n\n".join(_printable(block) for block in blocks) + "\n"


def _labelled(label: str, sentence: str) -> str:
    return _wrapped(f"{label}: {sentence}", "  - ", "    ")


def _wrapped(sentence: str, first: str = "", rest: str | None = None) -> str:
    return textwrap.fill(
        sentence, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _printable(block: str) -> str:
    """Names come from files: nothing of them may reach the terminal but printable characters."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in block)


def markdown(audit: Audit) -> str:
    """Return the audit as GitHub-flavoured Markdown."""
    lines = [f"# {escaped(audit.headline)}", "", f"Audit of {escaped(', '.join(audit.sources))}.", ""]
    if audit.comparisons:
        lines += ["| comparison | given | ratio | status | would be |", "|---|---|---:|---|---|"]
        lines += [_table_row(comparison) for comparison in audit.comparisons]
        lines.append("")
    for comparison in audit.comparisons:
        lines += [f"## {escaped(comparison.name)}: {comparison.status}", "", escaped(figures(comparison)), ""]
        lines += [*_items(said(comparison)), ""]
    if alone(audit.comparisons, audit.findings):
        lines += ["## Single rows", ""]
        for finding in alone(audit.comparisons, audit.findings):
            would_be = "; ".join(correction.text for correction in finding.corrections)
            message = f"{finding.where}: {finding.message}" + (f". Would be: {would_be}" if would_be else "")
            lines += _items([(finding.rule, message)])
        lines.append("")
    lines += [f"Note: {escaped(note)}\n" for note in audit.notes]
    return "\n".join(lines).rstrip() + "\n"


def _table_row(comparison: Comparison) -> str:
    values = [value_text(value, comparison.quantity) for value in (comparison.baseline_value, comparison.value)]
    would_be = "; ".join(correction.text for correction in comparison.corrections) or "–"
    fields = [comparison.name, " → ".join(values), times_text(comparison.ratio), comparison.status, would_be]
    return f"| {' | '.join(map(escaped, fields))} |"


def _items(lines: Sequence[tuple[str, str]]) -> list[str]:
    return [f"- **{escaped(label)}**: {escaped(sentence)}" for label, sentence in lines]


def escaped(sentence: str) -> str:
    """Return a sentence on one line, none of it read as Markdown or HTML."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~$&" else letter for letter in plain(sentence))
