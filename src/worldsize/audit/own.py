"""An audit of our own runs: the study's rules decide; what they say is put in the audit's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from worldsize.audit.judge import status_of
from worldsize.audit.records import Comparison, Correction, Finding
from worldsize.audit.text import times_text
from worldsize.records import Problem
from worldsize.study.records import CellResult, StudyResult

DOUBTS = ("super-linear", "noisy", "few-repeats", "too-few-cores", "gloo-with-gpus", "out-of-lock-step")
"""Rules that leave the speedup printed, but do not let an auditor sign it."""
BY_COUNT = ("every-rank-all-data", "different-num-samples", "different-tokens", "different-batch", "different-steps")


def audit_study(result: StudyResult, source: str) -> tuple[list[Comparison], list[Finding]]:
    """Return a comparison for each cell that has a baseline, and what is found about baselines and the study."""
    cells = {cell.name: cell for cell in result.cells}
    comparisons = [
        _comparison(result, cells[cell.baseline], cell, source)
        for cell in result.cells
        if cell.baseline and cell.step_time_s and cells[cell.baseline].step_time_s
    ]
    findings = [_finding(problem, source) for problem in result.problems]
    alone = [cell for cell in result.cells if cell.is_baseline]
    findings += [_finding(problem, f"{source}, {cell.name}") for cell in alone for problem in cell.problems]
    findings += [
        _finding(Problem(rule="unfinished", severity="warns", message=failure.reason), failure.run)
        for cell in result.cells
        for failure in cell.failures
    ]
    return comparisons, findings


def _comparison(result: StudyResult, base: CellResult, cell: CellResult, source: str) -> Comparison:
    assert base.step_time_s is not None
    assert cell.step_time_s is not None
    theirs, ours = base.step_time_s.median, cell.step_time_s.median
    found = [_finding(problem, cell.name) for problem in cell.problems]
    known = {finding.rule for finding in found}
    found += [_finding(problem, base.name) for problem in base.problems if problem.rule not in known]
    weak = result.scaling == "weak"
    rates = (base.tokens_per_s, cell.tokens_per_s)
    by_rate = weak and rates[0] is not None and rates[1] is not None
    values = (rates[0].median, rates[1].median) if by_rate and rates[0] and rates[1] else (theirs, ours)
    several = len({(c.global_batch, repr(c.vary)) for c in result.cells}) > 1
    name = f"{base.world_size} → {cell.world_size} devices"
    return Comparison(
        name=f"{name}, {base.name} → {cell.name}" if several else name,
        source=source,
        quantity="tokens_per_s" if by_rate else "step_time_s",
        baseline=base.name,
        compared=cell.name,
        baseline_devices=base.world_size,
        devices=cell.world_size,
        baseline_value=values[0],
        value=values[1],
        ratio=values[1] / values[0] if by_rate else values[0] / values[1],
        status=status_of(found, []),
        findings=sorted(found, key=lambda finding: ("blocks", "doubts", "warns").index(finding.severity)),
        corrections=[] if weak else _corrections(found, base, cell),
    )


def _corrections(found: Sequence[Finding], base: CellResult, cell: CellResult) -> list[Correction]:
    """Where only the amount of work differs, the rates of tokens can still be divided."""
    blocking = {finding.rule for finding in found if finding.severity == "blocks"}
    counted = blocking & set(BY_COUNT)
    if not counted or not base.tokens_per_s or not cell.tokens_per_s:
        return []
    value = cell.tokens_per_s.median / base.tokens_per_s.median
    note = ", not in time to equal quality" if "different-batch" in counted else ""
    text = f"{times_text(value)} by tokens processed{note}"
    return [Correction(quantity="speedup", value=value, text=text, formula="ratio of tokens per second")]


def _finding(problem: Problem, where: str) -> Finding:
    severity: Literal["blocks", "doubts", "warns"] = problem.severity
    if severity == "warns" and problem.rule in DOUBTS:
        severity = "doubts"
    return Finding(rule=problem.rule, severity=severity, about="time", where=where, message=problem.message)


def own_folder(path: Path) -> Literal["study", "run"] | None:
    """Tell what kind of our own folder a path is."""
    if (path / "study.json").is_file():
        return "study"
    return "run" if (path / "run.json").is_file() else None
