"""A study's report: verdict, why, next, what would happen, evidence, laws, problems, method. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path

from worldsize.report import (
    labels,
    law_tables,
    machine,
    plates,
    quality_tables,
    remedy_table,
    tables,
    what_if_table,
)
from worldsize.report.document import (
    Block,
    Code,
    Document,
    Facts,
    Finding,
    Findings,
    Heading,
    Lines,
    Numbers,
    Plates,
    Section,
    Terms,
    Words,
)
from worldsize.report.method import definitions
from worldsize.report.numbers import count
from worldsize.report.runs import RunFolders
from worldsize.study.records import StudyResult

OWN_SECTION = ("laws", "confusion")
NOTHING_NAMED = "The study names none."


def study_document(result: StudyResult, folder: Path | None) -> Document:
    """Return the report. `folder` is the study's, when its runs are at hand: they tell steps, ranks, and origins."""
    runs = RunFolders(result, folder)
    widest = runs.record(widest=True)
    if widest:  # one device knows no backend and no other ranks' cores
        result = result.model_copy(update={"environment": widest.environment})
    numbers = Numbers()
    optional = [
        _remedies(result, numbers),
        _what_would_happen(result, numbers),
        _evidence(result, runs, numbers),
        _quality(result, runs, numbers),
        _laws(result, runs, numbers),
    ]
    return Document(
        title=result.title,
        headline=result.verdict.headline,
        byline=byline(result, runs),
        sections=[
            Section("why", "Why", [_lines(result.verdict.why)], is_half=True),
            Section("next", "What to try next", [_lines(result.verdict.next)], is_half=True),
            *(section for section in optional if section),
            problems(result),
            Section("method", "Method", [Terms(definitions(result))]),
            environment(result, runs, numbers),
        ],
    )


def byline(result: StudyResult, runs: RunFolders) -> str:
    """Return 'Strong scaling study, 4 cells, ACME CPU, begun 2026-01-01'."""
    parts = [f"{result.scaling.capitalize()} scaling study", count(len(result.cells), "cell")]
    if result.environment:
        parts.append(", ".join(dict.fromkeys(result.environment.device_names)) or result.environment.device_kind)
    record = runs.record()
    if record:
        parts.append(f"begun {record.started_at[:10]}")
    return ", ".join(parts)


def _lines(items: list[str]) -> Block:
    return Lines(items) if items else Words(NOTHING_NAMED, muted=True)


def _remedies(result: StudyResult, numbers: Numbers) -> Section | None:
    if not result.remedies:
        return None
    return Section("remedies", "Remedies", [numbers.sheet(remedy_table.remedies(result.remedies))])


def _what_would_happen(result: StudyResult, numbers: Numbers) -> Section | None:
    if not result.what_ifs:
        return None
    blocks: list[Block] = [numbers.sheet(what_if_table.what_ifs(result.what_ifs))]
    assumed = what_if_table.assumptions(result.what_ifs)
    if assumed:
        blocks += [Heading("What these answers assume"), Lines(assumed)]
    return Section("what-if", "What would happen", blocks)


def _evidence(result: StudyResult, runs: RunFolders, numbers: Numbers) -> Section:
    found = tables.tables(result)
    blocks: list[Block] = [Lines(result.verdict.evidence)] if result.verdict.evidence else []
    blocks += [numbers.sheet(table) for table in found[:1]]
    keys = [drawing.key for drawing in plates.DRAWINGS if drawing.key not in OWN_SECTION]
    drawn = plates.plates(result, runs, numbers, keys)
    blocks += [Plates(drawn)] if drawn else [Words("The study holds no cell.", muted=True)]
    blocks += [numbers.sheet(table) for table in found[1:]]
    return Section("evidence", "Evidence", blocks)


def _quality(result: StudyResult, runs: RunFolders, numbers: Numbers) -> Section | None:
    """Return how good the models became on held-out data, beside how fast they trained."""
    table = quality_tables.held_out(result)
    if table is None:
        return None
    blocks: list[Block] = [numbers.sheet(table)]
    drawn = plates.plates(result, runs, numbers, ["confusion"])
    blocks += [Plates(drawn)] if drawn else []
    examples = next((cell.held_out.examples for cell in result.cells if cell.held_out and cell.held_out.examples), [])
    if examples:
        lines = [f"{source} → {found} (reference: {reference})" for source, found, reference in examples]
        blocks += [Heading("The first translations"), Lines(lines)]
    return Section("quality", "Quality", blocks)


def _laws(result: StudyResult, runs: RunFolders, numbers: Numbers) -> Section | None:
    """Return which law the cells follow, what it says of more devices, and up to where to believe it."""
    fits = result.fits
    if fits is None:
        return None
    limits = law_tables.limits(fits)
    blocks: list[Block] = [Words(fits.evidence), *([Lines(limits)] if limits else [])]
    drawn = plates.plates(result, runs, numbers, ["laws"])
    blocks += [Plates(drawn)] if drawn else []
    if fits.fits:
        blocks.append(numbers.sheet(law_tables.evidence(fits)))
    if fits.best:
        following = law_tables.doublings(fits)
        blocks += [numbers.sheet(following)] if following else []
        blocks.append(numbers.sheet(law_tables.parameters(fits)))
    if fits.not_fitted:
        reasons = [law_tables.capital(each.reason) for each in fits.not_fitted]
        blocks += [Heading("Laws that were not fitted"), Lines(reasons)]
    return Section("laws", "Scaling laws", blocks)


def problems(result: StudyResult) -> Section:
    """Return every problem, the study's first, those that block before those that warn; then what did not finish."""
    names = labels.cell_labels(result)
    found = [Finding("", p.rule, p.severity, p.message) for p in result.problems]
    found += [Finding(names[c.name], p.rule, p.severity, p.message) for c in result.cells for p in c.problems]
    found = sorted(dict.fromkeys(found), key=lambda finding: finding.severity != "blocks")
    failed = [Finding(names[c.name], f.run, "failed", f.reason) for c in result.cells for f in c.failures]
    blocks: list[Block] = [Findings(found)] if found else [Words("No rule found anything to object to.")]
    if failed:
        blocks += [Heading("Runs that did not finish"), Findings(failed)]
    return Section("problems", "Problems and warnings", blocks)


def environment(result: StudyResult, runs: RunFolders, numbers: Numbers) -> Section:
    """Return the machine, the command and the settings."""
    blocks: list[Block] = []
    if result.environment:
        blocks.append(Facts(machine.facts(result.environment)))
    else:
        blocks.append(Words("Not known: because the runs recorded no environment, or differ in it.", muted=True))
    if result.command:
        blocks += [Heading("Command"), Code(" ".join(result.command))]
    record = runs.record()
    changed = machine.settings(result.config, record.origins if record else {})
    if changed:
        blocks.append(numbers.sheet(machine.settings_table(changed)))
    else:
        blocks += [Heading("Settings that differ from the defaults"), Words("None.", muted=True)]
    if result.config:
        whole = json.dumps(result.config, indent=2, ensure_ascii=False)
        blocks.append(Code(whole, summary="The whole configuration of the baseline"))
    return Section("environment", "Environment", blocks)
