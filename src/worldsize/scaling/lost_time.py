"""Where a step's time beyond the ideal went. Definitions and limits: docs/explain/lost-time.md. Torch-free.

Exposed communication is split where ranks' clocks allow it: within one step the rank that shows the least of it came
last and waited for nobody, so its time bounds the transfer from above; what the others show beyond it is waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from worldsize.measure.summary import timed
from worldsize.scaling.laws import Floats
from worldsize.scaling.pair import EXPOSED, Pair
from worldsize.scaling.wording import percent, time_text
from worldsize.study.files import Run
from worldsize.study.records import LostTime

WORTH = 0.02
"""A part smaller than this share of the loss gets no sentence."""
LOCK_STEP = 0.05
"""Ranks whose step times differ by more have no common clock (rule out-of-lock-step)."""
PART_NAMES = {
    EXPOSED: "Exposed communication",
    "compute_excess_s": "Compute",
    "optimizer_s": "Optimizer",
    "data_s": "Data",
    "bubble_s": "Pipeline bubble",
    "other_s": "Other",
}
PHASES_OF = {
    EXPOSED: (EXPOSED,),
    "compute_excess_s": ("compute_s",),
    "optimizer_s": ("optimizer_s",),
    "data_s": ("data_wait_s", "host_to_device_s"),
    "bubble_s": ("bubble_s",),
}
"""Part → the phases whose excess it is; whatever remains is other_s."""


def lost_time(pair: Pair, runs: Sequence[Run], baseline_runs: Sequence[Run]) -> LostTime:
    """Return the time that the cell's step loses against the ideal, and its parts, which sum to it."""
    lost_s = pair.step_s - pair.ideal_s
    parts_s = {part: _excess_s(pair, phases) for part, phases in PHASES_OF.items()}
    waiting = [waiting_share(runs), waiting_share(baseline_runs)]
    if None not in waiting:
        ours, theirs = (
            share * of.phases_s.get(EXPOSED, 0.0)
            for share, of in zip(waiting, (pair.cell, pair.baseline), strict=True)
            if share is not None
        )
        waiting_s = ours - theirs / pair.divisor
        parts_s = {"waiting_s": waiting_s, "transfer_s": parts_s.pop(EXPOSED) - waiting_s, **parts_s}
    parts_s["other_s"] = lost_s - sum(parts_s.values())
    return LostTime(ideal_s=pair.ideal_s, lost_s=lost_s, parts_s=parts_s)


def _excess_s(pair: Pair, phases: Iterable[str]) -> float:
    """Return the seconds that the cell spends in some phases beyond the baseline's share."""
    ours, theirs = (sum(each.phases_s.get(name, 0.0) for name in phases) for each in (pair.cell, pair.baseline))
    return ours - theirs / pair.divisor


def waiting_share(runs: Sequence[Run]) -> float | None:
    """Return which share of the exposed communication is waiting for the slowest rank, median over repeats.

    0 on one device. None where ranks cannot be set against each other: pipeline stages, which idle for other reasons,
    and ranks whose step times show that their clocks do not agree.
    """
    shares = []
    for run in runs:
        times_s = [rank.step_time_s for rank in run.result.ranks]
        if run.record.layout.get("pp", 1) > 1 or max(times_s) > (1 + LOCK_STEP) * min(times_s):
            return None
        exposed_s = _exposed_s(run)
        means_s = exposed_s.mean(axis=0)
        waiting_s, whole_s = float(np.median(means_s - exposed_s.min(axis=0))), float(np.median(means_s))
        shares.append(min(1.0, waiting_s / whole_s) if whole_s > 0 else 0.0)
    return median(shares) if shares else None


def _exposed_s(run: Run) -> Floats:
    """Return exposed communication (s) as ranks × timed steps; one column of medians where there are no step rows."""
    rows = [[row.phases_s.get(EXPOSED, 0.0) for row in timed(ranked)] for ranked in run.steps.values()]
    num_steps = min(map(len, rows), default=0)
    if len(rows) != run.record.world_size or num_steps == 0:
        rows, num_steps = [[rank.phases_s.get(EXPOSED, 0.0)] for rank in run.result.ranks], 1
    return np.maximum([ranked[:num_steps] for ranked in rows], 0.0)


def sentences(pair: Pair, lost: LostTime) -> list[str]:
    """Return sentences that say where the lost time went, largest part first."""
    ideal = time_text(lost.ideal_s)
    if pair.divisor != 1:
        ideal += f" ({time_text(lost.ideal_s * pair.divisor)} / {pair.divisor:g})"
    if lost.lost_s <= 0:
        return [f"A step takes {time_text(pair.step_s)}, no longer than the ideal {ideal}: no time is lost."]
    parts_s = joined(lost)
    gross_s = sum(seconds for seconds in parts_s.values() if seconds > 0)
    won_s = gross_s - lost.lost_s
    told = f"Ideally a step would take {ideal}; it takes {time_text(pair.step_s)}, so {time_text(lost.lost_s)} are lost"
    won = f" {time_text(gross_s)} in some parts, less {time_text(won_s)} won in others"
    lines = [f"{told}:{won if won_s > WORTH * lost.lost_s else ''}"]
    for part, seconds in sorted(parts_s.items(), key=lambda item: -item[1]):
        if seconds >= WORTH * gross_s:
            share = f"{time_text(seconds)}, {percent(seconds / gross_s)} of the loss"
            lines.append(f"{PART_NAMES[part]}: {share}. {_because(pair, lost, part)}")
        elif seconds <= -WORTH * gross_s:
            lines.append(f"{PART_NAMES[part]}: {time_text(-seconds)} won. {_compared(pair, part)}")
    return lines


def joined(lost: LostTime) -> dict[str, float]:
    """Return the parts with waiting and transfer as one: exposed communication."""
    split = ("waiting_s", "transfer_s")
    exposed_s = lost.parts_s.get(EXPOSED, 0.0) + sum(lost.parts_s.get(part, 0.0) for part in split)
    return {EXPOSED: exposed_s} | {part: s for part, s in lost.parts_s.items() if part not in (*split, EXPOSED)}


def _because(pair: Pair, lost: LostTime, part: str) -> str:
    if part == EXPOSED:
        return _exposed_because(lost.parts_s)
    if part == "optimizer_s" and pair.divisor > 1:
        now, before = (time_text(each.phases_s.get("optimizer_s", 0.0)) for each in (pair.cell, pair.baseline))
        return f"Every device updates all weights: {now} a step, {before} on the baseline; it is not divided."
    if part == "compute_excess_s":
        return (
            f"{_compared(pair, part)} A smaller share runs less efficiently, or devices share memory bandwidth, cache "
            f"or clock."
        )
    return _compared(pair, part)


def _exposed_because(parts_s: Mapping[str, float]) -> str:
    if "waiting_s" not in parts_s:
        return "The exchange, and waiting for other ranks, that no compute hides."
    return (
        f"No compute hides it: {time_text(parts_s['waiting_s'])} waiting for the slowest rank, "
        f"{time_text(parts_s['transfer_s'])} transfer."
    )


def _compared(pair: Pair, part: str) -> str:
    if part not in PHASES_OF:
        return "What belongs to no other part."
    now_s, share_s = (
        sum(each.phases_s.get(name, 0.0) for name in PHASES_OF[part]) for each in (pair.cell, pair.baseline)
    )
    return f"{time_text(now_s)} a step, where the baseline's share would be {time_text(share_s / pair.divisor)}."
