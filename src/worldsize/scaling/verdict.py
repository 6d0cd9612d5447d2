"""A study in words: headline, why, what to try next, evidence. Every figure is computed from the measurements."""

from __future__ import annotations

from collections.abc import Sequence

from worldsize.records import Measured
from worldsize.scaling import break_even, lost_time, time_to_loss
from worldsize.scaling.batch_noise import batch_advice
from worldsize.scaling.evidence import CAUSES, about_measuring, evidence, warnings
from worldsize.scaling.fit_records import LawFits
from worldsize.scaling.outlook import outlook
from worldsize.scaling.pair import EXPOSED, Pair
from worldsize.scaling.questions import Answers, Runs
from worldsize.scaling.remedies import proposals
from worldsize.scaling.suggestions import WORTH, Suggestion, assumptions, suggestions, too_uncertain
from worldsize.scaling.wording import devices, percent, ratio_interval, time_interval, time_text
from worldsize.study.grid import Scaling
from worldsize.study.records import CellResult, Verdict

PHASE_NAMES = {
    "data_wait_s": "Waiting for data",
    "host_to_device_s": "Copying to the device",
    "compute_s": "Compute",
    "exposed_communication_s": "Exposed communication",
    "bubble_s": "Pipeline bubble",
    "optimizer_s": "Optimizer",
    "other_s": "Other",
}
LOSSY = 0.8
"""Below this efficiency the headline says what the time is lost to, and what would bring it back."""
NUM_CLAUSES = 2


def verdict(
    cells: Sequence[CellResult],
    runs: Runs,
    scaling: Scaling,
    fits: LawFits | None = None,
    answers: Answers | None = None,
) -> Verdict:
    """Return the verdict on a study's cells; `runs` holds each cell's finished runs by the cell's name.

    `answers` are those asked about the subject (`subject_of`).
    """
    measured = [cell for cell in cells if cell.step_time_s]
    compared = [cell for cell in measured if not cell.is_baseline]
    passed = [cell for cell in compared if cell.efficiency]
    if not measured:
        return _nothing_finished(cells)
    if not compared:
        return _plain(measured, cells, runs)
    if not passed:
        return _not_comparable(compared, cells)
    pair = subject_of(cells, scaling)
    assert pair is not None
    ideas = suggestions(pair, cells, runs, answers)
    nothing = [f"No change that these measurements can judge would give more than {percent(WORTH)}."]
    advice = [*(idea.sentence for idea in ideas), *too_uncertain(answers)]
    is_offered = any(idea.kind == "batch" for idea in ideas)
    advice += batch_advice(pair.cell, is_offered=is_offered)
    return Verdict(
        headline=_headline(pair, passed, ideas),
        why=[
            *_lost(pair),
            *_slower(passed, cells, scaling),
            *_causes(pair.cell),
            *_refused(compared),
            *_failed(cells),
        ],
        next=[
            *_make_certain(pair),
            *_remedies(passed, cells, runs, scaling),
            *(advice or nothing),
            *outlook(pair, fits),
        ],
        evidence=[
            *evidence(pair, runs[pair.cell.name], runs[pair.baseline.name]),
            *time_to_loss.sentences(pair),
            *([fits.evidence[:1].upper() + fits.evidence[1:]] if fits and fits.best else []),
            *assumptions(ideas),
        ],
    )


def subject_of(cells: Sequence[CellResult], scaling: Scaling) -> Pair | None:
    """Return the cell that the verdict is about and its baseline: most devices, then sound, then the best."""
    passed = [cell for cell in cells if cell.step_time_s and cell.efficiency and not cell.is_baseline]
    if not passed:
        return None
    subject = max(passed, key=lambda cell: (cell.world_size, not cell.overridden, _middle(cell.efficiency)))
    return Pair(subject, next(cell for cell in cells if cell.name == subject.baseline), scaling)


def _lost(pair: Pair) -> list[str]:
    return lost_time.sentences(pair, pair.cell.lost_time) if pair.cell.lost_time else []


def _slower(passed: Sequence[CellResult], cells: Sequence[CellResult], scaling: Scaling) -> list[str]:
    """Return for each cell that is slower than its baseline why, and where it would break even."""
    return [
        sentence
        for pair in _slower_pairs(passed, cells, scaling)
        if pair.cell.break_even
        for sentence in break_even.sentences(pair, pair.cell.break_even)
    ]


def _slower_pairs(passed: Sequence[CellResult], cells: Sequence[CellResult], scaling: Scaling) -> list[Pair]:
    by_name = {cell.name: cell for cell in cells}
    pairs = [Pair(cell, by_name[cell.baseline], scaling) for cell in passed if cell.baseline]
    return [pair for pair in pairs if break_even.is_slower(pair)]


def _remedies(passed: Sequence[CellResult], cells: Sequence[CellResult], runs: Runs, scaling: Scaling) -> list[str]:
    """Return for each cell that is slower than its baseline what its remedies should give."""
    return [
        sentence for pair in _slower_pairs(passed, cells, scaling) for sentence in proposals(pair, runs[pair.cell.name])
    ]


def _make_certain(pair: Pair) -> list[str]:
    """Return what to do first where the figures are too uncertain to build on."""
    doubts = [p for cell in (pair.cell, pair.baseline) for p in cell.problems if p.rule in ("noisy", "few-repeats")]
    return [f"First make the figure certain ({doubts[0].rule}): {doubts[0].message}."] if doubts else []


def _middle(measured: Measured | None) -> float:
    return measured.median if measured else 0.0


def _headline(pair: Pair, passed: Sequence[CellResult], ideas: Sequence[Suggestion]) -> str:
    figures = _weak_figures(pair) if pair.scaling == "weak" else _strong_figures(pair, passed)
    sentence = f"{figures}{_because(pair)}{_already(pair, passed)}{_instead(pair, ideas)}."
    if pair.cell.overridden:
        return f"Overridden, not the same work: {sentence}"
    if pair.cell.other_maths:
        return f"Other maths, compare by loss: {sentence}"
    return sentence


def _is_lossy(pair: Pair) -> bool:
    """Tell whether much is lost, and the figures are certain enough to say to what."""
    return pair.efficiency() < LOSSY and all(problem.rule != "noisy" for problem in pair.cell.problems)


def _because(pair: Pair) -> str:
    """Return the clause that names the largest part of the lost time; empty where little is lost."""
    lost = pair.cell.lost_time
    if lost is None or not _is_lossy(pair):
        return ""
    part, seconds = max(lost_time.joined(lost).items(), key=lambda item: item[1])
    share = percent(seconds / pair.step_s)
    if part == EXPOSED:
        return f", because exposed communication is {share} of the step"
    return f", because {lost_time.PART_NAMES[part].lower()} beyond the baseline's share is {share} of the step"


def _instead(pair: Pair, ideas: Sequence[Suggestion]) -> str:
    """Return the best change of each kind as a clause, where much is lost and the work is the same."""
    best: dict[str, str] = {}
    for idea in ideas:
        if idea.clause:
            best.setdefault(idea.kind, idea.clause)
    if pair.cell.lost_time is None or not _is_lossy(pair) or not best:
        return ""
    return "; " + "; or ".join(list(best.values())[:NUM_CLAUSES])


def _where(cell: CellResult, others: Sequence[CellResult]) -> str:
    """Return which of several batches and settings the headline is about; empty where there is one."""
    parts = [f"a global batch of {cell.global_batch}"] if len({c.global_batch for c in others}) > 1 else []
    parts += [f"{key}={value}" for key, value in cell.vary.items() if len({repr(c.vary.get(key)) for c in others}) > 1]
    return f" at {' and '.join(parts)}" if parts else ""


def _strong_figures(pair: Pair, passed: Sequence[CellResult]) -> str:
    speedup, efficiency = pair.cell.speedup, pair.cell.efficiency
    assert speedup is not None
    assert efficiency is not None
    base = pair.baseline.world_size
    same = [cell for cell in passed if cell.world_size == pair.cell.world_size]
    who, where = devices(pair.cell.world_size), _where(pair.cell, same)
    tail = "" if pair.cell.overridden or pair.cell.other_maths else ", for the same work"
    figures = f"{speedup.median:.2f}x as fast as {base}{where} ({ratio_interval(speedup)})"
    if speedup.low <= 1 <= speedup.high:
        return f"{who} show no gain over {base} beyond the noise: {figures}{tail}"
    if speedup.high < 1:
        return f"{who} are slower than {base}: {figures}, {percent(efficiency.median)} efficiency{tail}"
    return f"{who} are {figures}, {percent(efficiency.median)} efficiency{tail}"


def _already(pair: Pair, passed: Sequence[CellResult]) -> str:
    """Return the clause that names fewer devices that do as well; empty where there are none."""
    ours = pair.cell.speedup
    fewer = [cell for cell in passed if cell.world_size < pair.cell.world_size and cell.baseline == pair.baseline.name]
    best = max(fewer, key=lambda cell: _middle(cell.speedup), default=None)
    if ours is None or best is None or best.speedup is None or best.speedup.median < max(ours.median, 1.0):
        return ""
    return f"; {devices(best.world_size)} already give {best.speedup.median:.2f}x"


def _weak_figures(pair: Pair) -> str:
    efficiency = pair.cell.efficiency
    assert efficiency is not None
    return (
        f"{devices(pair.cell.world_size)}, each with as much work as before, keep {percent(efficiency.median)} "
        f"(95 % interval {efficiency.low * 100:.0f}-{efficiency.high * 100:.0f} %) of the rate per device "
        f"of {pair.baseline.world_size}"
    )


def _causes(cell: CellResult) -> list[str]:
    """Return the warnings that explain lost time rather than doubt it."""
    causes = [problem.message for problem in cell.problems if problem.rule in CAUSES]
    return [f"{message[0].upper()}{message[1:]}." for message in causes]


def _refused(compared: Sequence[CellResult]) -> list[str]:
    """Return why cells without a speedup have none."""
    return [
        f"No speedup for {cell.name} ({problem.rule}): {problem.message}."
        for cell in compared
        for problem in cell.problems
        if cell.efficiency is None and problem.severity == "blocks"
    ]


def _failed(cells: Sequence[CellResult]) -> list[str]:
    return [f"{failure.run} failed: {failure.reason}" for cell in cells for failure in cell.failures]


def _not_comparable(compared: Sequence[CellResult], cells: Sequence[CellResult]) -> Verdict:
    subject = max(compared, key=lambda cell: cell.world_size)
    count = "" if len(compared) == 1 else f" (nor for {len(compared) - 1} other cells)"
    return Verdict(
        headline=f"No speedup is given: {subject.name} cannot be compared with {subject.baseline}{count}.",
        why=[*_refused(compared), *_failed(cells)],
        next=["Mend what is named and run it again; --override prints the ratio all the same, with a mark."],
        evidence=[
            f"{cell.name}: {time_interval(cell.step_time_s)} a step, {len(cell.runs)} repeats."
            for cell in cells
            if cell.step_time_s
        ],
    )


def _nothing_finished(cells: Sequence[CellResult]) -> Verdict:
    num_failed = sum(len(cell.failures) for cell in cells)
    return Verdict(
        headline=f"No run finished, {num_failed} failed." if num_failed else "No run has finished yet.",
        why=_failed(cells),
        next=["Mend the reason and run the same command again: failed runs are tried again."],
        evidence=[],
    )


def _plain(measured: Sequence[CellResult], cells: Sequence[CellResult], runs: Runs) -> Verdict:
    """Return the verdict on runs of one world size (others may have failed): a measurement, no comparison."""
    subject = max(measured, key=lambda cell: _middle(cell.tokens_per_s))
    assert subject.step_time_s is not None
    where = _where(subject, measured) or f" in {subject.name}"
    which = f"{where}, the fastest of {len(measured)}" if len(measured) > 1 else ""
    step_s = subject.step_time_s.median
    parts = sorted(subject.phases_s.items(), key=lambda item: -item[1])
    why = [
        f"{PHASE_NAMES.get(name, name)}: {time_text(seconds)}, {percent(seconds / step_s)} of the step."
        for name, seconds in parts
        if seconds >= WORTH * step_s
    ]
    repeats = f"{len(subject.runs)} repeat{'s' * (len(subject.runs) > 1)}"
    return Verdict(
        headline=f"{devices(subject.world_size)} train {_middle(subject.tokens_per_s):,.0f} tokens/s{which}: "
        f"{time_interval(subject.step_time_s)} a step. One world size was measured, so there is no speedup.",
        why=[*why, *_failed(cells)],
        next=[f"Measure what more devices bring: --nproc {subject.world_size},{subject.world_size * 2}."],
        evidence=[
            f"Step time {time_interval(subject.step_time_s)}, {repeats}.",
            *about_measuring(subject, runs[subject.name]),
            *warnings(Pair(subject, subject, "strong")),
        ],
    )
