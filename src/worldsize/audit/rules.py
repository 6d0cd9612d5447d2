"""What makes a single row unfit or doubtful: one small function a rule, listed in ROW_RULES.

A rule is a function from a row to its findings; it asks only columns that are there. Names and thresholds are those of
scaling/rules.py wherever the same fault is meant in our own runs. Rules about two rows are in audit/pair_rules.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import mean

from worldsize.audit.records import Correction, Finding, Row
from worldsize.audit.text import RATES, rate_text, row_name, seconds_text
from worldsize.scaling.rules import LOCK_STEP
from worldsize.scaling.rules_timing import slow_start, slow_start_text
from worldsize.scaling.wording import percent

SAME_RATE = 0.05
"""Two statements of one rate agree within this: clocks start and stop at different places."""
SAME_COUNT = 0.02
"""Two statements of one count agree within this: last batches are dropped or padded."""
SAME_MEAN = 0.001
SAMPLES_TOO_FAST = 1.5
"""Sampled micro steps must not be this much faster than the wall time says micro steps are."""
STEPS_MISS = 0.5
"""Step times that sum to less than this share of the wall time leave more out than evaluations explain."""


def out_of_lock_step(row: Row) -> list[Finding]:
    """Ranks that exchange gradients in every step end it together: their times cannot differ."""
    times_s = row.per_rank_times_s or []
    if len(times_s) < 2 or max(times_s) / min(times_s) - 1 <= LOCK_STEP:
        return []
    slow, fast, middle = max(times_s), min(times_s), mean(times_s)
    message = (
        f"ranks in lock-step cannot differ in time, but rank {times_s.index(slow)} shows {seconds_text(slow)} and rank "
        f"{times_s.index(fast)} {seconds_text(fast)} ({percent(slow / fast - 1)} apart): a clock is wrong (the wrong "
        f"device was synchronised, or none), or they do not wait for each other. A mean over ranks "
        f"({seconds_text(middle)}) is not accepted: a step ends when its slowest rank ends"
    )
    return [_finding("out-of-lock-step", "blocks", "time", row, message, slowest_s=slow, fastest_s=fast, mean_s=middle,
                     corrections=[_slowest(slow)])]  # fmt: skip


def mean_over_ranks(row: Row) -> list[Finding]:
    """A time that is the mean of the ranks' times."""
    times_s, given_s = row.per_rank_times_s or [], row.time_s or row.epoch_time_s
    if len(times_s) < 2 or given_s is None:
        return []
    middle, slow = mean(times_s), max(times_s)
    if abs(given_s / middle - 1) > SAME_MEAN or slow / middle - 1 <= 10 * SAME_MEAN:
        return []
    message = (
        f"the time given, {seconds_text(given_s)}, is the mean over ranks; the slowest rank, which all wait for, took "
        f"{seconds_text(slow)}"
    )
    return [_finding("mean-over-ranks", "blocks", "time", row, message, mean_s=middle, slowest_s=slow,
                     corrections=[_slowest(slow)])]  # fmt: skip


def communication_on_one_device(row: Row) -> list[Finding]:
    """Communication reported where there is nobody to talk to."""
    if row.devices != 1 or not row.communication_s:
        return []
    message = (
        f"one device reports {seconds_text(row.communication_s)} of communication. That is not communication: what was "
        f"timed (the optimizer's step, waiting for the device) is in the communication of the other rows as well"
    )
    return [_finding("communication-on-one-device", "blocks", "communication", row, message,
                     communication_s=row.communication_s)]  # fmt: skip


def parts_exceed_time(row: Row) -> list[Finding]:
    """A part of the time that is longer than the time."""
    whole_s = row.seconds
    parts = {"communication": row.communication_s, "compute": row.compute_s}
    found = []
    for name, part_s in parts.items():
        if whole_s and part_s and part_s > whole_s * (1 + SAME_COUNT):
            message = (
                f"{seconds_text(part_s)} of {name} do not fit into {seconds_text(whole_s)}: they are summed over ranks "
                f"or belong to another time"
            )
            found.append(_finding("books-do-not-close", "blocks", "communication", row, message, part_s=part_s))
    return found


def contradictory_rate(row: Row) -> list[Finding]:
    """A rate that is not the count divided by the time; a rate per rank that poses as the total."""
    return [
        finding
        for column, count in (("tokens_per_s", row.tokens), ("samples_per_s", row.all_samples))
        if (rate := getattr(row, column)) and count and row.seconds
        for finding in _rate_findings(row, column, rate, count, row.seconds)
    ]


def _rate_findings(row: Row, column: str, rate: float, count: int, seconds: float) -> list[Finding]:
    total, ranks = count / seconds, row.devices or 1
    what = f"{count:,} {RATES[column].removesuffix('/s')} in {seconds_text(seconds)} are {rate_text(total, column)}"
    readings = {"total": total, "per_rank": total / ranks}
    fitting = [name for name, value in readings.items() if abs(rate / value - 1) <= SAME_RATE]
    stated = row.throughput_is
    if fitting and (stated is None or stated in fitting):
        return []
    text = rate_text(total, column)
    correction = Correction(
        quantity=column, value=total, text=f"{text} in total, by count / time", formula="count / time"
    )
    if fitting:
        message = (
            f"{rate_text(rate, column)} is presented as {'the total' if stated == 'total' else 'per rank'}, but {what} "
            f"in total on {ranks} devices: it is {'per rank' if stated == 'total' else 'the total'}"
        )
        return [
            _finding("per-rank-throughput", "blocks", "rate", row, message, reported=rate, corrections=[correction])
        ]
    message = f"{rate_text(rate, column)} contradicts its own row: {what} ({rate / total:.2f} times less)"
    if rate < total:
        message = f"{rate_text(rate, column)} contradicts its own row: {what}"
    return [_finding("contradictory-rate", "blocks", "rate", row, message, reported=rate, computed=total,
                     corrections=[correction])]  # fmt: skip


def contradictory_counts(row: Row) -> list[Finding]:
    """Two counts of one row that cannot both be right."""
    n, accumulation = row.devices, row.accumulation or 1
    per_device, batch, steps = row.per_device_batch, row.global_batch, row.steps
    sides: list[tuple[str, float | None, str, list[float]]] = [
        ("global_batch", batch, "per_device_batch × devices",
         [per_device * n, per_device * n * accumulation] if per_device and n else []),
        ("samples", row.samples, "steps × global_batch", [steps * batch] if steps and batch else []),
        ("samples", row.samples, "samples_per_rank × devices",
         [row.samples_per_rank * n] if row.samples_per_rank and n else []),
        ("micro_steps", row.micro_steps, "steps × accumulation",
         [steps * row.accumulation] if steps and row.accumulation else []),
    ]  # fmt: skip
    found = []
    for name, given, formula, expected in sides:
        allowed = SAME_COUNT * given + (batch or 0) * (name == "samples") if given else 0.0
        if given and expected and all(abs(given - value) > allowed for value in expected):
            message = f"{name} is {given:,.0f}, but {formula} is {expected[0]:,.0f}: one of them is wrong"
            found.append(
                _finding("contradictory-counts", "doubts", "work", row, message, given=given, computed=expected[0])
            )
    return found


def steps_against_time(row: Row) -> list[Finding]:
    """Step times that sum to more than the wall time, or to so little that the timer missed most of it."""
    if not (row.step_time_s and row.steps and row.seconds):
        return []
    sum_s = row.step_time_s * row.steps
    share = sum_s / row.seconds
    if STEPS_MISS <= share <= 1 + SAME_RATE:
        return []
    told = f"{row.steps:,} steps of {seconds_text(row.step_time_s)} are {seconds_text(sum_s)}, the wall time is "
    told += seconds_text(row.seconds)
    why = "more than there is" if share > 1 else "the timer is around the wrong thing, or misses most of the step"
    return [_finding("timer-misses-time", "blocks", "time", row, f"{told}: {why}", sum_s=sum_s, wall_s=row.seconds)]


def samples_miss_optimizer(row: Row) -> list[Finding]:
    """Step times sampled on a stride that, under accumulation, always meets the same micro steps."""
    sampled_s, stride, accumulation = row.sampled_time_s, row.sampling_stride, row.accumulation
    wall_s = row.micro_step_time_s or (row.seconds / row.micro_steps if row.seconds and row.micro_steps else None)
    too_fast = sampled_s is not None and wall_s is not None and wall_s > SAMPLES_TOO_FAST * sampled_s
    met = accumulation // math.gcd(stride, accumulation) if stride and accumulation else None
    blind = met is not None and accumulation is not None and met < accumulation
    if not sampled_s or not (too_fast or (blind and wall_s is None)):
        return []
    told, corrections = f"sampled micro steps take {seconds_text(sampled_s)}", []
    if wall_s:
        told += f", but the wall time is {seconds_text(wall_s)} per micro step"
        step_s = wall_s * (accumulation or 1)
        text = f"{seconds_text(step_s)} a step, by wall time"
        corrections.append(
            Correction(
                quantity="step_time_s", value=step_s, text=text, formula="wall time per micro step × accumulation"
            )
        )
    if blind:
        told += (
            f": every {stride}th micro step under accumulation {accumulation} meets only {met} of {accumulation} "
            f"positions, and the samples never contain an optimizer step"
        )
    else:
        told += ": the samples leave out what most of the time goes into"
    severity = "blocks" if too_fast else "doubts"
    return [_finding("samples-miss-optimizer", severity, "sampling", row, told, sampled_s=sampled_s,
                     wall_per_micro_step_s=wall_s or math.nan, corrections=corrections)]  # fmt: skip


def warmup_never_left(row: Row) -> list[Finding]:
    """Learning-rate warm-up that covers the whole run."""
    if row.warmup_steps is None or row.steps is None or row.warmup_steps < row.steps:
        return []
    message = (
        f"the learning rate was still warming up when the run ended: warm-up was never left ({row.warmup_steps:,} "
        f"warm-up steps, {row.steps:,} steps)"
    )
    return [
        _finding("warmup-never-left", "warns", "quality", row, message, warmup_steps=row.warmup_steps, steps=row.steps)
    ]


def missing_warmup(row: Row) -> list[Finding]:
    """First steps that count and are far slower than the rest."""
    start = slow_start(row.step_times_s or [])
    if start is None:
        return []
    return [_finding("missing-warmup", "warns", "time", row, slow_start_text(start), first_s=start.first_s,
                     typical_s=start.typical_s)]  # fmt: skip


def loss_does_not_fall(row: Row) -> list[Finding]:
    """A run whose loss did not fall trained nothing."""
    if row.first_loss is None or row.last_loss is None or row.last_loss < row.first_loss:
        return []
    message = f"the training loss did not fall ({row.first_loss:g} at the start, {row.last_loss:g} at the end)"
    return [_finding("loss-does-not-fall", "warns", "quality", row, message, first=row.first_loss, last=row.last_loss)]


def _slowest(seconds: float) -> Correction:
    text = f"at least {seconds_text(seconds)}, the slowest rank's"
    return Correction(quantity="time_s", value=seconds, text=text, formula="max over ranks")


def _finding(
    rule: str, severity: str, about: str, row: Row, message: str, corrections: list[Correction] | None = None,
    **figures: float,
) -> Finding:  # fmt: skip
    known = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
    return Finding.model_validate(
        {
            "rule": rule,
            "severity": severity,
            "about": about,
            "where": f"{row_name(row)} ({row.where})" if row.where and row.where != row_name(row) else row_name(row),
            "message": message,
            "figures": known,
            "corrections": corrections or [],
        }
    )


ROW_RULES: tuple[Callable[[Row], list[Finding]], ...] = (
    out_of_lock_step,
    mean_over_ranks,
    communication_on_one_device,
    parts_exceed_time,
    contradictory_rate,
    contradictory_counts,
    steps_against_time,
    samples_miss_optimizer,
    warmup_never_left,
    missing_warmup,
    loss_does_not_fall,
)
