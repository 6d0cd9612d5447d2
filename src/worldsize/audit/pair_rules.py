"""What makes a comparison of two points unfit or doubtful: one small function a rule, listed in PAIR_RULES.

Rules that speak of the work ('about' work and quality) apply to comparisons of times: a rate may be compared although
the work differs. Names are those of study/comparability.py and scaling/rules.py wherever the same fault is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from worldsize.audit.pairs import SETTINGS, TIMES, Pair
from worldsize.audit.records import Correction, Finding, Row
from worldsize.audit.rules import SAME_COUNT, SAME_RATE
from worldsize.audit.text import rate_text, times_text
from worldsize.scaling.wording import percent

SUPER_LINEAR = 0.05
"""Published points rarely tell their spread; whole runs of one program differ by a few percent."""
SAME_CLAIM = 0.02
SAME_QUALITY = 0.01
"""Losses (relative) that are taken as equal: seeds alone move a short run's loss by that."""
SETTING_RULES = {"data": "different-data", "context_length": "different-data", "schedule": "different-schedule",
                 "learning_rate": "different-optimizer", "device": "different-devices"}  # fmt: skip
NOT_A_TOTAL, STILL_PER_RANK = 1 / 3, 1 / 2


def different_setting(pair: Pair) -> list[Finding]:
    """Another model, data set, precision, optimizer, schedule or device."""
    found = []
    for column in SETTINGS:
        ours, theirs = getattr(pair.point.row, column), getattr(pair.base.row, column)
        if ours is None or theirs is None or _same(ours, theirs):
            continue
        message = f"{column.replace('_', ' ')} is {ours}, the baseline's is {theirs}"
        found.append(_finding(SETTING_RULES.get(column, f"different-{column}"), "blocks", "setting", pair, message))
    return found


def every_rank_all_data(pair: Pair) -> list[Finding]:
    """More samples on more devices: with an unsharded sampler each rank consumes the whole data set."""
    ours, theirs = pair.point.row.all_samples, pair.base.row.all_samples
    if not ours or not theirs or abs(ours / theirs - 1) <= SAME_COUNT:
        return []
    ratio = ours / theirs
    mine, base = _per_rank(pair.point.row), _per_rank(pair.base.row)
    if ratio > 1 and mine and base and abs(mine / base - 1) <= SAME_COUNT:
        rule = "every-rank-all-data"
        message = (
            f"each of {pair.point.devices} ranks consumed all {mine:,.0f} samples: {ours:,} samples in all, "
            f"{ratio:.3g}x the baseline's. The sampler did not divide the data among the ranks: this is not the same "
            f"work"
        )
    else:
        rule = "different-num-samples"
        message = (
            f"{ours:,} samples were consumed, by the baseline {theirs:,} ({ratio:.3g}x): this is not the same work"
        )
    return [
        _finding(
            rule, "blocks", "work", pair, message, [_by_count(pair, "samples", ratio)], samples=ours, baseline=theirs
        )
    ]


def different_tokens(pair: Pair) -> list[Finding]:
    """Other amounts of tokens, where samples do not say so already."""
    ours, theirs = pair.point.row.tokens, pair.base.row.tokens
    if not ours or not theirs or abs(ours / theirs - 1) <= SAME_COUNT or every_rank_all_data(pair):
        return []
    message = (
        f"{ours:,} tokens were consumed, by the baseline {theirs:,} ({ours / theirs:.3g}x): this is not the same work"
    )
    corrections = [_by_count(pair, "tokens", ours / theirs)]
    return [_finding("different-tokens", "blocks", "work", pair, message, corrections, tokens=ours, baseline=theirs)]


def different_batch(pair: Pair) -> list[Finding]:
    """Another global batch, told as such or by the number of optimizer steps: fewer, larger steps learn less."""
    ours, theirs = global_batch(pair.point.row), global_batch(pair.base.row)
    steps, base_steps = pair.point.row.steps, pair.base.row.steps
    if ours and theirs:
        if ours == theirs:
            return []
        message = f"the global batch is {ours:,}, the baseline's is {theirs:,}"
        if steps and base_steps and steps != base_steps:
            message += f" ({base_steps:,} → {steps:,} optimizer steps)"
        return [
            _finding("different-batch", "blocks", "work", pair, message, _as_rate(pair), batch=ours, baseline=theirs)
        ]
    if not steps or not base_steps or abs(steps / base_steps - 1) <= SAME_COUNT:
        return []
    message = (
        f"{base_steps:,} → {steps:,} optimizer steps ({base_steps / steps:.3g}x fewer): the global batch grew with the "
        f"devices, or the data shrank"
    )
    if steps > base_steps:
        message = f"{base_steps:,} → {steps:,} optimizer steps: this is not the same work"
    return [
        _finding("different-steps", "blocks", "work", pair, message, _as_rate(pair), steps=steps, baseline=base_steps)
    ]


def unequal_quality(pair: Pair) -> list[Finding]:
    """A worse loss at the end: the time to equal quality was not measured."""
    for column, name in (("validation_loss", "validation loss"), ("last_loss", "training loss")):
        ours, theirs = getattr(pair.point.row, column), getattr(pair.base.row, column)
        if ours is None or theirs is None:
            continue
        if abs(ours - theirs) <= SAME_QUALITY * abs(theirs):
            return []
        worse = ours > theirs
        message = f"{name} {theirs:.3f} → {ours:.3f}"
        message += (
            f": {times_text(pair.ratio)} is not the gain in time to equal quality"
            if worse
            else ": better than the baseline's, so that something else changed as well"
        )
        severity: Literal["blocks", "warns"] = "blocks" if worse else "warns"
        corrections = _as_rate(pair) if worse else []
        return [
            _finding("unequal-quality", severity, "quality", pair, message, corrections, loss=ours, baseline=theirs)
        ]
    return []


def per_rank_throughput(pair: Pair) -> list[Finding]:
    """A rate that hardly changes with the devices, or that the times contradict: what each rank does, not all."""
    if not pair.is_rate or pair.growth < 2 or "per_rank" in (pair.point.row.throughput_is, pair.base.row.throughput_is):
        return []
    as_total, times_ratio = pair.ratio / pair.growth, _times_say_per_rank(pair)
    by_itself = as_total < NOT_A_TOTAL and STILL_PER_RANK <= pair.ratio <= 1 + SUPER_LINEAR
    if not by_itself and not times_ratio:
        return []
    total, speedup = pair.value * pair.point.devices, pair.ratio * pair.growth
    stated = pair.point.row.throughput_is == "total"
    message = (
        f"{rate_text(pair.base_value, pair.quantity)} → {rate_text(pair.value, pair.quantity)}"
        f"{' is presented as total' if stated else ''}: as a total, {pair.point.devices} devices would do "
        f"{times_text(pair.ratio)} of what {pair.base.devices} did (efficiency {percent(as_total)})"
        f"{f', but the times say {times_text(times_ratio)}' if times_ratio else ''}. It is per rank: the total is "
        f"{rate_text(total, pair.quantity)}"
    )
    formula, text = "rate per rank × devices", rate_text(total, pair.quantity)
    corrections = [
        Correction(quantity=pair.quantity, value=total, text=f"{text} in total", formula=formula),
        Correction(quantity="speedup", value=speedup, text=f"{times_text(speedup)} in throughput", formula=formula),
    ]
    severity: Literal["blocks", "doubts"] = "blocks" if stated or times_ratio else "doubts"
    return [
        _finding("per-rank-throughput", severity, "rate", pair, message, corrections, total=total, reported=pair.value)
    ]


def _times_say_per_rank(pair: Pair) -> float | None:
    """Return by how much the rate grew by the times, where that fits a rate per rank and no total."""
    for value_of in TIMES.values():
        ours, theirs = pair.point.median(value_of), pair.base.median(value_of)
        if ours and theirs:
            ratio = theirs / ours * (work_ratio(pair) or 1.0)
            fits, fits_total = (abs(ratio / each - 1) <= SAME_RATE for each in (pair.ratio * pair.growth, pair.ratio))
            return ratio if fits and not fits_total else None
    return None


def super_linear(pair: Pair) -> list[Finding]:
    """More than N times as fast on N times the devices."""
    if pair.ratio <= pair.growth * (1 + max(SUPER_LINEAR, pair.spread / 2)):
        return []
    if every_rank_all_data(pair) or different_tokens(pair):
        return []
    message = (
        f"{times_text(pair.ratio)} on {pair.growth:g}x the devices is more than linear. Check that the baseline ran as "
        f"fast as it can (same cores and threads a device, nothing else running, not short of memory), that every "
        f"rank's own device was synchronised before the clock was read and the slowest rank counts, not a mean, that "
        f"both did the same work; then whether the smaller share of a device now fits a cache"
    )
    return [_finding("super-linear", "doubts", "rate" if pair.is_rate else "time", pair, message, ratio=pair.ratio)]


def claimed_speedup(pair: Pair) -> list[Finding]:
    """A claim that the row's own numbers do not give."""
    claim = pair.point.row.claimed_speedup
    has_times = any(value_of(pair.point.row) and value_of(pair.base.row) for value_of in TIMES.values())
    if claim is None or (pair.is_rate and has_times) or abs(claim / pair.ratio - 1) <= SAME_CLAIM:
        return []
    what = "rates" if pair.is_rate else "times"
    message = f"{times_text(claim)} is claimed, the {what} give {times_text(pair.ratio)}"
    correction = Correction(quantity="speedup", value=pair.ratio, text=f"{times_text(pair.ratio)} by the {what} given",
                            formula=f"ratio of {what}")  # fmt: skip
    return [
        _finding("claimed-speedup", "blocks", "time", pair, message, [correction], claimed=claim, computed=pair.ratio)
    ]


def global_batch(row: Row) -> int | None:
    """The global batch where it is told or follows from the per-device batch."""
    if row.global_batch is not None:
        return row.global_batch
    return row.per_device_batch * row.devices if row.per_device_batch and row.devices else None


def _per_rank(row: Row) -> float | None:
    if row.samples_per_rank is not None:
        return row.samples_per_rank
    return row.samples / row.devices if row.samples and row.devices else None


def work_ratio(pair: Pair) -> float | None:
    """Return the samples behind one value over those behind the other, or None where the data do not tell."""
    ours, theirs = pair.point.row, pair.base.row
    if pair.quantity == "step_time_s":
        return _over(global_batch(ours), global_batch(theirs))
    by_count = _over(ours.all_samples, theirs.all_samples) or _over(ours.tokens, theirs.tokens)
    steps, batches = _over(ours.steps, theirs.steps), _over(global_batch(ours), global_batch(theirs))
    return by_count or (steps * batches if steps and batches else None)


def _over(ours: int | None, theirs: int | None) -> float | None:
    return ours / theirs if ours and theirs else None


def _same(ours: Any, theirs: Any) -> bool:
    return bool(ours.casefold() == theirs.casefold() if isinstance(ours, str) else ours == theirs)


def _by_count(pair: Pair, what: str, ratio: float) -> Correction:
    value = pair.ratio if pair.is_rate else pair.ratio * ratio
    return Correction(quantity="speedup", value=value, text=f"{times_text(value)} by {what} processed",
                      formula=f"ratio of times × ratio of {what}")  # fmt: skip


def _as_rate(pair: Pair) -> list[Correction]:
    """A ratio of times is one of rates once the samples behind both are known."""
    if pair.is_rate or every_rank_all_data(pair) or different_tokens(pair):
        return []
    ratio = work_ratio(pair)
    value = pair.ratio * (ratio or 1.0)
    text = f"{times_text(value)} in throughput, not in time to equal quality"
    text += "" if ratio else ", if both went over the same data"
    formula = "ratio of times × ratio of samples"
    return [Correction(quantity="throughput_ratio", value=value, text=text, formula=formula)]


def _finding(
    rule: str, severity: Literal["blocks", "doubts", "warns"], about: Any, pair: Pair, message: str,
    corrections: list[Correction] | None = None, **figures: float,
) -> Finding:  # fmt: skip
    return Finding(
        rule=rule, severity=severity, about=about, where=f"{pair.base.devices} → {pair.point.devices} devices",
        message=message, corrections=corrections or [], figures={name: float(value) for name, value in figures.items()},
    )  # fmt: skip


PAIR_RULES: tuple[Callable[[Pair], list[Finding]], ...] = (
    different_setting,
    every_rank_all_data,
    different_tokens,
    different_batch,
    unequal_quality,
    per_rank_throughput,
    super_linear,
    claimed_speedup,
)
