"""From rows to an audit: every rule asked, every pair judged. Pure: rows in, records out."""

from __future__ import annotations

from collections.abc import Sequence

from worldsize.audit.lost_time import lost_time
from worldsize.audit.pair_rules import PAIR_RULES, global_batch
from worldsize.audit.pairs import Pair, pairs_of
from worldsize.audit.records import Audit, Comparison, Correction, Finding, Row
from worldsize.audit.rules import ROW_RULES

TIME_SUFFERS_FROM = ("time", "work", "setting", "quality")
RATE_SUFFERS_FROM = ("rate", "setting")


def audit_rows(rows: Sequence[Row], source: str) -> tuple[list[Comparison], list[Finding], list[str]]:
    """Return the comparisons, what is found about single rows, and notes on rows without a partner."""
    about_rows = {id(row): [finding for rule in ROW_RULES for finding in rule(row)] for row in rows}
    pairs, notes = pairs_of(rows)
    several = len({pair.series for pair in pairs}) > 1
    comparisons = [
        _comparison(
            pair, source, several, [f for row in (*pair.base.rows, *pair.point.rows) for f in about_rows[id(row)]]
        )
        for pair in pairs
    ]
    return comparisons, [finding for found in about_rows.values() for finding in found], notes


def _comparison(pair: Pair, source: str, several: bool, about_rows: Sequence[Finding]) -> Comparison:
    suffers = RATE_SUFFERS_FROM if pair.is_rate else TIME_SUFFERS_FROM
    found = [finding for rule in PAIR_RULES for finding in rule(pair)] + list(about_rows)
    found = sorted(
        (f for f in found if f.about in suffers), key=lambda f: ("blocks", "doubts", "warns").index(f.severity)
    )
    missing = [] if any(finding.severity == "blocks" for finding in found) else not_told(pair)
    name = f"{pair.base.devices} → {pair.point.devices} devices"
    return Comparison(
        name=f"{name}, {pair.series or 'no series'}" if several else name,
        source=source,
        quantity=pair.quantity,
        baseline=pair.base.row.where,
        compared=pair.point.row.where,
        baseline_devices=pair.base.devices,
        devices=pair.point.devices,
        baseline_value=pair.base_value,
        value=pair.value,
        ratio=pair.ratio,
        claimed=pair.point.row.claimed_speedup,
        status=status_of(found, missing),
        findings=found,
        corrections=_corrections(pair, found),
        not_told=missing,
        lost_time=lost_time(pair),
    )


def status_of(found: Sequence[Finding], missing: Sequence[str]) -> str:
    """Return whether a comparison stands."""
    severities = {finding.severity for finding in found}
    if "blocks" in severities:
        return "does not stand"
    return "cannot be told" if "doubts" in severities or missing else "stands"


def not_told(pair: Pair) -> list[str]:
    """Return what would have to be known before the comparison can stand."""
    ours, theirs = pair.point.row, pair.base.row
    if pair.is_rate:
        presented = {row.throughput_is for row in (ours, theirs)}
        counted = all(row.seconds and (row.tokens or row.all_samples) for row in (ours, theirs))
        derived = pair.is_weak and all(getattr(row, pair.quantity) is None for row in (ours, theirs))
        told = presented == {"total"} or presented == {"per_rank"} or counted or derived
        return [] if told else ["whether the rate is the total or per rank (throughput_is)"]
    missing = []
    by_steps = all(row.steps and global_batch(row) for row in (ours, theirs)) or pair.quantity == "step_time_s"
    if not by_steps and not any(getattr(ours, c) and getattr(theirs, c) for c in ("all_samples", "tokens")):
        missing.append("whether both did the same work: samples or tokens consumed, or steps and global batch")
    batch_told = any(global_batch(row) is None and row.steps is None for row in (ours, theirs))
    if batch_told and (ours.validation_loss is None or theirs.validation_loss is None):
        missing.append("whether they learned alike: the global batch, or a validation loss")
    return missing


def _corrections(pair: Pair, found: Sequence[Finding]) -> list[Correction]:
    """Return each correction once; where the slowest rank's time is known, the speedup by it comes first."""
    seen: dict[str, Correction] = {}
    slowest = _by_slowest_rank(pair)
    for correction in [*slowest, *(c for finding in found for c in finding.corrections)]:
        seen.setdefault(correction.text, correction)
    return list(seen.values())


def _by_slowest_rank(pair: Pair) -> list[Correction]:
    if pair.quantity not in ("time_s", "epoch_time_s"):
        return []
    base_s, time_s = (
        _slowest_s(point.row, value) for point, value in ((pair.base, pair.base_value), (pair.point, pair.value))
    )
    if (base_s, time_s) == (pair.base_value, pair.value):
        return []
    value = base_s / time_s
    text = f"{value:.2f}x by the slowest rank's clock"
    return [Correction(quantity="speedup", value=value, text=text, formula="ratio of the slowest ranks' times")]


def _slowest_s(row: Row, given_s: float) -> float:
    return max(row.per_rank_times_s) if row.per_rank_times_s else given_s


def assemble(
    sources: Sequence[str], num_rows: int, comparisons: list[Comparison], findings: list[Finding], notes: list[str]
) -> Audit:
    """Put the parts together under a headline."""
    headline = _headline(comparisons, alone(comparisons, findings))
    return Audit(sources=list(sources), num_rows=num_rows, headline=headline, comparisons=comparisons,
                 findings=findings, notes=notes)  # fmt: skip


def alone(comparisons: Sequence[Comparison], findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings about single rows that no comparison carries."""
    carried = {(finding.where, finding.message) for comparison in comparisons for finding in comparison.findings}
    return [finding for finding in findings if (finding.where, finding.message) not in carried]


def _headline(comparisons: Sequence[Comparison], findings: Sequence[Finding]) -> str:
    objections = f"{len(findings)} finding{'s' * (len(findings) != 1)} about single rows"
    if not comparisons:
        return f"Nothing to compare; {objections}." if findings else "Nothing to compare, and nothing to object to."
    statuses: list[str] = [comparison.status for comparison in comparisons]
    tail = f"; {objections}." if findings else "."
    if len(statuses) == 1:
        return f"The one comparison {statuses[0]}{tail}"
    if set(statuses) == {"stands"}:
        return f"All {len(statuses)} comparisons stand{tail}"
    words = (("stands", "stand"), ("does not stand", "do not stand"), ("cannot be told", "cannot be told"))
    parts = [f"{n} {one if n == 1 else many}" for one, many in words if (n := statuses.count(one)) or one == "stands"]
    return f"Of {len(statuses)} comparisons {', '.join(parts)}{tail}"
