"""A study in words: headline, why, what to try next, evidence. Every figure is computed from the measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worldsize.records import Measured
from worldsize.scaling.evidence import CAUSES, about_measuring, evidence, warnings
from worldsize.scaling.suggestions import WORTH, Pair, suggestions
from worldsize.scaling.wording import devices, percent, ratio_interval, time_interval, time_text
from worldsize.study.files import Run
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
Runs = Mapping[str, Sequence[Run]]


def verdict(cells: Sequence[CellResult], runs: Runs, scaling: Scaling) -> Verdict:
    """Return the verdict on a study's cells; `runs` holds each cell's finished runs by the cell's name."""
    measured = [cell for cell in cells if cell.step_time_s]
    compared = [cell for cell in measured if not cell.is_baseline]
    passed = [cell for cell in compared if cell.efficiency]
    if not measured:
        return _nothing_finished(cells)
    if not compared:
        return _plain(measured, cells, runs)
    if not passed:
        return _not_comparable(compared, cells)
    subject = _subject(passed)
    pair = Pair(subject, next(cell for cell in cells if cell.name == subject.baseline), scaling)
    nothing = [f"No change that these measurements can judge would give more than {percent(WORTH)}."]
    return Verdict(
        headline=_headline(pair, passed),
        why=[*lost_time(pair), *_causes(subject), *_refused(compared), *_failed(cells)],
        next=[*_make_certain(pair), *(suggestions(pair, cells, runs[subject.name]) or nothing)],
        evidence=evidence(pair, runs[subject.name], runs[pair.baseline.name]),
    )


def _make_certain(pair: Pair) -> list[str]:
    """Return what to do first where the figures are too uncertain to build on."""
    doubts = [p for cell in (pair.cell, pair.baseline) for p in cell.problems if p.rule in ("noisy", "few-repeats")]
    return [f"First make the figure certain ({doubts[0].rule}): {doubts[0].message}."] if doubts else []


def _middle(measured: Measured | None) -> float:
    return measured.median if measured else 0.0


def _subject(passed: Sequence[CellResult]) -> CellResult:
    """Return the cell the verdict is about: most devices, then sound before overridden, then the best."""
    return max(passed, key=lambda cell: (cell.world_size, not cell.overridden, _middle(cell.efficiency)))


def _headline(pair: Pair, passed: Sequence[CellResult]) -> str:
    sentence = _weak_headline(pair) if pair.scaling == "weak" else _strong_headline(pair, passed)
    if pair.cell.overridden:
        return f"Overridden, not the same work: {sentence}"
    return sentence


def _where(cell: CellResult, others: Sequence[CellResult]) -> str:
    """Return which of several batches and settings the headline is about; empty where there is one."""
    parts = [f"a global batch of {cell.global_batch}"] if len({c.global_batch for c in others}) > 1 else []
    parts += [f"{key}={value}" for key, value in cell.vary.items() if len({repr(c.vary[key]) for c in others}) > 1]
    return f" at {' and '.join(parts)}" if parts else ""


def _strong_headline(pair: Pair, passed: Sequence[CellResult]) -> str:
    speedup, efficiency = pair.cell.speedup, pair.cell.efficiency
    assert speedup is not None
    assert efficiency is not None
    base = pair.baseline.world_size
    same = [cell for cell in passed if cell.world_size == pair.cell.world_size]
    who, where = devices(pair.cell.world_size), _where(pair.cell, same)
    tail = "" if pair.cell.overridden else ", for the same work"
    figures = f"{speedup.median:.2f}x as fast as {base}{where} ({ratio_interval(speedup)})"
    if speedup.low <= 1 <= speedup.high:
        return f"{who} show no gain over {base} beyond the noise: {figures}{tail}."
    if speedup.high < 1:
        return f"{who} are slower than {base}: {figures}, {percent(efficiency.median)} efficiency{tail}."
    fewer = [cell for cell in passed if cell.world_size < pair.cell.world_size and cell.baseline == pair.baseline.name]
    best = max(fewer, key=lambda cell: _middle(cell.speedup), default=None)
    already = ""
    if best and best.speedup and best.speedup.median >= speedup.median:
        already = f"; {devices(best.world_size)} already give {best.speedup.median:.2f}x"
    return f"{who} are {figures}, {percent(efficiency.median)} efficiency{tail}{already}."


def _weak_headline(pair: Pair) -> str:
    efficiency = pair.cell.efficiency
    assert efficiency is not None
    return (
        f"{devices(pair.cell.world_size)}, each with as much work as before, keep {percent(efficiency.median)} "
        f"(95 % interval {efficiency.low * 100:.0f}-{efficiency.high * 100:.0f} %) of the rate per device "
        f"of {pair.baseline.world_size}."
    )


def excess_s(pair: Pair) -> dict[str, float]:
    """Return by phase the seconds a step takes beyond the ideal; they sum to step time minus ideal step time."""
    names = {**pair.cell.phases_s, **pair.baseline.phases_s}
    cell, baseline = pair.cell.phases_s, pair.baseline.phases_s
    return {name: cell.get(name, 0.0) - baseline.get(name, 0.0) / pair.divisor for name in names}


def lost_time(pair: Pair) -> list[str]:
    """Return sentences that split the time lost against the ideal by phases, largest first."""
    excess = excess_s(pair)
    lost_s = sum(excess.values())
    actual_s, baseline_s = (sum(each.phases_s.values()) for each in (pair.cell, pair.baseline))
    ideal = f"{time_text(baseline_s / pair.divisor)}"
    if pair.divisor != 1:
        ideal += f" ({time_text(baseline_s)} / {pair.divisor:g})"
    if lost_s <= 0:
        return [f"A step takes {time_text(actual_s)}, no longer than the ideal {ideal}: no time is lost."]
    gross_s = sum(seconds for seconds in excess.values() if seconds > 0)
    won_s = gross_s - lost_s
    won = (
        f": {time_text(gross_s)} in some phases, less {time_text(won_s)} won in others"
        if won_s > WORTH * lost_s
        else ":"
    )
    lines = [f"Ideally a step would take {ideal}; it takes {time_text(actual_s)}, so {time_text(lost_s)} are lost{won}"]
    for name, seconds in sorted(excess.items(), key=lambda item: -item[1]):
        if seconds >= WORTH * gross_s:
            share = f"{time_text(seconds)}, {percent(seconds / gross_s)} of the loss"
            lines.append(f"{PHASE_NAMES.get(name, name)}: {share}. {_because(pair, name)}")
        elif seconds <= -WORTH * gross_s:
            lines.append(f"{PHASE_NAMES.get(name, name)}: {time_text(-seconds)} won. {_compared(pair, name)}")
    return lines


def _because(pair: Pair, name: str) -> str:
    now, before = (time_text(each.phases_s.get(name, 0.0)) for each in (pair.cell, pair.baseline))
    if name == "exposed_communication_s":
        return "The exchange, and waiting for other ranks, that no compute hides."
    if name == "optimizer_s" and pair.divisor > 1:
        return f"Every device updates all weights: {now} a step, {before} on the baseline; it is not divided."
    if name == "compute_s":
        return (
            f"{_compared(pair, name)} A smaller share runs less efficiently, or devices share memory bandwidth, cache "
            f"or clock."
        )
    return _compared(pair, name)


def _compared(pair: Pair, name: str) -> str:
    now = time_text(pair.cell.phases_s.get(name, 0.0))
    share = time_text(pair.baseline.phases_s.get(name, 0.0) / pair.divisor)
    return f"{now} a step, where the baseline's share would be {share}."


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
    which = f" in {subject.name}, the fastest of {len(measured)}" if len(measured) > 1 else ""
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
