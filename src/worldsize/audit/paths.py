"""From the paths of one call to an audit: our own folders, and files of somebody's numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worldsize.audit.judge import assemble, audit_rows
from worldsize.audit.own import audit_study, own_folder
from worldsize.audit.read import SUFFIXES, read_rows
from worldsize.audit.records import Audit, Comparison, Finding, Row
from worldsize.errors import UserError
from worldsize.study.records import StudyResult
from worldsize.study.results import analyse, from_runs


@dataclass
class _Found:
    """What the paths of one call gave so far."""

    num_rows: int = 0
    comparisons: list[Comparison] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_study(self, result: StudyResult, source: str) -> None:
        comparisons, findings = audit_study(result, source)
        self.num_rows += len(result.cells)
        self.comparisons += comparisons
        self.findings += findings

    def add_rows(self, rows: Sequence[Row], source: str) -> None:
        comparisons, findings, notes = audit_rows(rows, source)
        self.num_rows += len(rows)
        self.comparisons += comparisons
        self.findings += findings
        self.notes += notes


def audit_paths(arguments: Sequence[str]) -> Audit:
    """Audit studies, runs and files of numbers; 'N=FILE' says that a file was measured on N devices.

    Each study stands alone; run folders are compared with each other; a file of numbers that holds several device
    counts stands alone, and files with one each are compared with each other. Raises UserError that names the bad path,
    line and column.
    """
    if not arguments:
        raise UserError("nothing to audit. Give a study's folder, run folders, or files of numbers (CSV or JSON).")
    found = _Found()
    runs: list[Path] = []
    single: list[Row] = []
    for argument in arguments:
        path, devices = _path_of(argument)
        kind = own_folder(path)
        if kind == "study":
            found.add_study(analyse(path), str(path))
        elif kind == "run":
            runs.append(path)
        else:
            rows, unread = _read(path, devices)
            found.notes += unread
            if len({row.devices for row in rows}) > 1:
                found.add_rows(rows, str(path))
            else:
                single += rows
    if runs:
        found.add_study(from_runs(runs), f"{len(runs)} runs" if len(runs) > 1 else str(runs[0]))
    if single:
        found.add_rows(single, ", ".join(dict.fromkeys(row.where.rsplit(", ", 1)[0] for row in single)))
    return assemble(arguments, found.num_rows, found.comparisons, found.findings, found.notes)


def _path_of(argument: str) -> tuple[Path, int | None]:
    """Split 'N=FILE' into the file and its number of devices, unless a file of that very name exists."""
    match = re.fullmatch(r"(\d{1,7})=(.+)", argument, re.ASCII | re.DOTALL)
    if match is None or Path(argument).exists():
        return Path(argument), None
    if int(match[1]) < 1:
        raise UserError(f"{argument}: the number of devices before '=' must be at least 1.")
    return Path(match[2]), int(match[1])


def _read(path: Path, devices: int | None) -> tuple[list[Row], list[str]]:
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return read_rows(path, devices)
    if not path.exists():
        what = "does not exist"
    elif path.is_dir():
        what = "holds neither a study nor a run"
    else:
        what = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
    raise UserError(
        f"{path} {what}. Give a study's folder (it holds study.json), run folders (run.json), or files of numbers that "
        f"end in {', '.join(SUFFIXES)}."
    )
