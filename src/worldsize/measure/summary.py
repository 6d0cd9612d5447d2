"""From all ranks' steps to the numbers of a run. Torch-free: pure functions of rows and samples.

The slowest rank makes the step time; the phases are the mean over ranks, and sum to the step time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, median

from worldsize.measure.statistics import measured
from worldsize.records import PHASES, ExposedCommunication, Measured, MeasuringCost, StepRow

AGREEMENT = 0.10
"""Ablation and trace agree when they differ by no more than this share of the larger."""

NEGLIGIBLE = 0.005
"""Differences below this share of the step are within what either way can resolve."""

Rows = Mapping[int, Sequence[StepRow]]


def timed(rows: Sequence[StepRow]) -> list[StepRow]:
    """Return the rows that count: all but warm-up, and but those beside which a checkpoint was being written.

    Where each step had a checkpoint beside it, all but warm-up. Ranks agree on the marks, so they count the same steps.
    """
    return [row for row, counted in zip(rows, counts(rows), strict=True) if counted]


def counts(rows: Sequence[StepRow]) -> list[bool]:
    """Return of each row whether it counts (see `timed`)."""
    undisturbed = [not row.warmup and not row.saving for row in rows]
    return undisturbed if any(undisturbed) else [not row.warmup for row in rows]


def over_periods(rows: Sequence[StepRow], period: int) -> list[StepRow]:
    """Return the timed rows, each the mean of `period` consecutive ones in wall time and phases.

    A strategy that exchanges every k steps alone has steps of two kinds, and a median of them would show one of these.
    Steps at the end that fill no period are left out.
    """
    if period == 1:
        return list(rows)
    counted = timed(rows)
    starts = range(0, len(counted) - period + 1, period)
    return [_mean_row(counted[start : start + period]) for start in starts]


def _mean_row(rows: Sequence[StepRow]) -> StepRow:
    phases = {name: mean(row.phases_s.get(name, 0.0) for row in rows) for name in rows[0].phases_s}
    return rows[0].model_copy(update={"wall_s": mean(row.wall_s for row in rows), "phases_s": phases})


def step_times_s(rows_by_rank: Rows) -> list[float]:
    """Return each timed step's wall time on its slowest rank."""
    return [max(row.wall_s for row in step) for step in zip(*map(timed, rows_by_rank.values()), strict=True)]


def losses(rows_by_rank: Rows) -> list[float]:
    """Return each step's loss: sum over all ranks' targets / their count."""
    return [
        sum(row.loss_sum for row in step) / sum(row.targets for row in step)
        for step in zip(*rows_by_rank.values(), strict=True)
    ]


def local_grad_norms(rows_by_rank: Rows) -> list[float | None]:
    """Return each step's root mean square over ranks of the norm of a rank's own gradient, None where there is none."""
    steps = [[row.local_grad_norm for row in step] for step in zip(*rows_by_rank.values(), strict=True)]
    return [sqrt(mean(norm**2 for norm in norms if norm is not None)) if None not in norms else None for norms in steps]


def rank_phases_s(rows: Sequence[StepRow]) -> dict[str, float]:
    """Return one rank's phases, which sum to the median of its step times.

    They are taken from the steps between the quartiles of wall time, so that one hiccup does not colour them, and
    scaled to the median.
    """
    ordered = sorted(timed(rows), key=lambda row: row.wall_s)
    quarter = len(ordered) // 4
    central = ordered[quarter : len(ordered) - quarter]
    scale = median(row.wall_s for row in ordered) / sum(row.wall_s for row in central)
    return {phase: sum(row.phases_s.get(phase, 0.0) for row in central) * scale for phase in PHASES}


def phases_s(rows_by_rank: Rows) -> dict[str, float]:
    """Return the run's phases, which sum to the median step time.

    Mean over ranks; by how much the slowest rank's step exceeds the mean step is added to other_s.
    """
    by_rank = [rank_phases_s(rows) for rows in rows_by_rank.values()]
    phases = {phase: mean(rank[phase] for rank in by_rank) for phase in PHASES}
    phases["other_s"] += median(step_times_s(rows_by_rank)) - sum(phases.values())
    return phases


def phase_samples_s(rows_by_rank: Rows, phase: str) -> list[float]:
    """Return one phase of each timed step, mean over ranks."""
    return _mean_over_ranks([[row.phases_s[phase] for row in timed(rows)] for rows in rows_by_rank.values()])


def exposed_communication(
    rows_by_rank: Rows,
    *,
    contention_s: Sequence[Sequence[float]],
    with_exchange_s: Sequence[Sequence[float]],
    without_exchange_s: Sequence[Sequence[float]],
    traced_s: Sequence[Sequence[float]],
    copies_s: Sequence[Sequence[float]],
    traced_step_s: Sequence[Sequence[float]],
) -> ExposedCommunication:
    """Return exposed communication by clock, ablation and trace; every argument is by rank, then by step or round."""
    differences_s = [
        [full - without for full, without in zip(*pair, strict=True)]
        for pair in zip(with_exchange_s, without_exchange_s, strict=True)
    ]
    step_s = median(step_times_s(rows_by_rank))
    exposed = ExposedCommunication(
        clock_s=measured(phase_samples_s(rows_by_rank, "exposed_communication_s")),
        ablation_s=_measured_over_ranks(differences_s),
        trace_s=_measured_over_ranks(traced_s),
        contention_s=_measured_over_ranks(contention_s),
        copies_s=_measured_over_ranks(copies_s),
        traced_step_s=_measured_over_ranks(traced_step_s),
    )
    exposed.disagreement = disagreement(exposed, step_s)
    return exposed


def disagreement(exposed: ExposedCommunication, step_time_s: float) -> str | None:
    """Return None when ablation and trace agree, else a sentence with what accounts for the difference."""
    if exposed.ablation_s is None or exposed.trace_s is None:
        return None
    ablation_s, trace_s = exposed.ablation_s.median, exposed.trace_s.median
    tolerance_s = max(AGREEMENT * max(ablation_s, trace_s), NEGLIGIBLE * step_time_s)
    gap_s = abs(ablation_s - trace_s)
    if gap_s <= tolerance_s:
        return None
    if ablation_s > trace_s:
        contention_s, copies_s = _median_or_0(exposed.contention_s), _median_or_0(exposed.copies_s)
        accounted_s = contention_s + copies_s
        why = (
            f"while communication was in flight its threads kept compute off its core for {_ms(contention_s)}, and "
            f"copying gradients into buckets took {_ms(copies_s)}, both of which a trace books as compute"
        )
    else:
        accounted_s = max(0.0, _median_or_0(exposed.traced_step_s) - step_time_s)
        why = (
            f"profiling made the traced steps {_ms(accounted_s)} longer, and what it adds to one rank "
            f"the others wait for"
        )
    told = f"ablation {_ms(ablation_s)} and trace {_ms(trace_s)} differ by {_ms(gap_s)}: {why}"
    spread_s = max(_spread_s(exposed.ablation_s), _spread_s(exposed.trace_s))
    rest_s = gap_s - accounted_s
    if rest_s <= tolerance_s:
        return f"{told}."
    if rest_s <= spread_s:
        return f"{told}; what remains, {_ms(rest_s)}, is within the measurement's spread of {_ms(spread_s)}."
    return f"{told}; {_ms(rest_s)} remain unexplained: take the larger number, and repeat on a quiet machine."


def _median_or_0(value: Measured | None) -> float:
    return value.median if value else 0.0


def _spread_s(value: Measured) -> float:
    return value.high - value.low


def measuring_cost(
    measured_s: Sequence[Sequence[float]],
    unmeasured_s: Sequence[Sequence[float]],
    step_time_s: float,
    marks_s: float,
) -> MeasuringCost:
    """Return what the clock adds to a step: slowest rank with it minus slowest rank without it, round by round."""
    with_s, without_s = _slowest(measured_s), _slowest(unmeasured_s)
    cost = measured([full - bare for full, bare in zip(with_s, without_s, strict=True)])
    return MeasuringCost(per_step_s=cost, share_of_step=cost.median / step_time_s, marks_s=marks_s)


def _mean_over_ranks(by_rank: Sequence[Sequence[float]]) -> list[float]:
    return [mean(step) for step in zip(*by_rank, strict=True)]


def _slowest(by_rank: Sequence[Sequence[float]]) -> list[float]:
    return [max(step) for step in zip(*by_rank, strict=True)]


def _measured_over_ranks(by_rank: Sequence[Sequence[float]]) -> Measured | None:
    samples = _mean_over_ranks(by_rank)
    return measured(samples) if samples else None


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
