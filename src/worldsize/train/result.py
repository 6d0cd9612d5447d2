"""All ranks' numbers put together into result.json. Rank 0 only; nothing here talks to other ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import mean

from worldsize.config.schema import Config
from worldsize.data.sampler import combine, to_hex
from worldsize.measure import summary
from worldsize.measure.allocated import UNKNOWN
from worldsize.measure.energy import EnergyMeter
from worldsize.measure.matmul import MatmulRates
from worldsize.measure.peaks import peak_flop_per_s
from worldsize.measure.pipeline_log import Replayed
from worldsize.measure.statistics import measured
from worldsize.measure.trace import TracedStep
from worldsize.parallel.local_sgd import period_of
from worldsize.records import (
    Bubble,
    CommunicationBytes,
    ExposedCommunication,
    MeasuringCost,
    RankSummary,
    RunRecord,
    RunResult,
    StepRow,
)
from worldsize.train.log import TrainLog
from worldsize.train.probe import FULL, UNMEASURED, WITHOUT_EXCHANGE

CANNOT_SKIP = (
    "without its collectives a step of this strategy has nothing to compute with: other ranks hold weights or sums"
)


@dataclass(frozen=True)
class RankReport:
    """What each rank tells rank 0 at the end."""

    log: TrainLog
    peak_memory_bytes: int
    allocated_bytes: int | None
    held_bytes: int
    matmul: MatmulRates | None
    energy_j: float | None
    probes_s: dict[str, list[float]]
    traced: list[TracedStep]
    replayed: Replayed | None = None


def result_of(
    record: RunRecord,
    reports: Sequence[RankReport],
    communication: CommunicationBytes,
    marks_s: float,
    energy: EnergyMeter,
) -> RunResult:
    """Return the run's result from every rank's report; `energy` says why its figure is absent where it is."""
    log, world_size = reports[0].log, record.world_size
    rows = {rank: report.log.rows for rank, report in enumerate(reports)}
    period = period_of(Config.model_validate(record.config))
    paced = {rank: summary.over_periods(report.log.rows, period) for rank, report in enumerate(reports)}
    timed_steps = summary.timed(log.rows)
    step_time = measured(summary.step_times_s(paced))
    tokens = sum(row.num_tokens for report in reports for row in summary.timed(report.log.rows)) / len(timed_steps)
    flop_per_s = tokens * record.flop_per_token / step_time.median / world_size
    rates = [report.matmul for report in reports if report.matmul]
    peak, peak_note = peak_flop_per_s(record.environment.device_names[0], record.config["train"]["precision"])
    allocated = [report.allocated_bytes for report in reports if report.allocated_bytes is not None]
    energies = [report.energy_j for report in reports]
    return RunResult(
        world_size=world_size,
        layout=record.layout,
        strategy=record.strategy,
        num_steps=len(log.rows),
        num_warmup_steps=sum(row.warmup for row in log.rows),
        samples_digest=to_hex(combine(report.log.samples_digest for report in reports)),
        samples_digest_expected=to_hex(combine([log.prescribed_digest])),
        num_samples=sum(row.num_samples for report in reports for row in report.log.rows),
        num_tokens=sum(row.num_tokens for report in reports for row in report.log.rows),
        losses=summary.losses(rows),
        grad_norms=[row.grad_norm for row in log.rows],
        local_grad_norms=summary.local_grad_norms(rows),
        evaluations=log.evaluations,
        checksums=log.checksums,
        checkpoints=log.checkpoints,
        resumed_after=log.resumed_after,
        step_time_s=step_time,
        phases_s=summary.phases_s(paced),
        tokens_per_s=tokens / step_time.median,
        peak_memory_bytes=[report.peak_memory_bytes for report in reports],
        allocated_bytes=allocated if len(allocated) == world_size else [],
        allocated_absent_because=None if len(allocated) == world_size else UNKNOWN,
        held_bytes=[report.held_bytes for report in reports],
        ranks=[_rank_summary(rank, report, paced[rank]) for rank, report in enumerate(reports)],
        communication_bytes=communication,
        exposed_communication=_exposed(paced, reports, period) if world_size > 1 else None,
        bubble=_bubble(rows, reports[0].replayed),
        model_flop_per_s=flop_per_s,
        mfu=flop_per_s / peak if peak else None,
        mfu_absent_because=None if peak else peak_note,
        mfu_vs_measured_matmul=flop_per_s / mean(rate.best for rate in rates) if rates else None,
        mfu_vs_stock_matmul=flop_per_s / mean(rate.stock for rate in rates) if rates else None,
        measuring_cost=_measuring_cost(reports, step_time.median, marks_s),
        energy_j=sum(e for e in energies if e is not None) if None not in energies else None,
        energy_absent_because=energy.absent_because,
        wall_s=log.wall_s,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _rank_summary(rank: int, report: RankReport, paced: Sequence[StepRow]) -> RankSummary:
    return RankSummary(
        rank=rank,
        step_time_s=measured([row.wall_s for row in summary.timed(paced)]).median,
        phases_s=summary.rank_phases_s(paced),
        num_samples=sum(row.num_samples for row in report.log.rows),
        num_tokens=sum(row.num_tokens for row in report.log.rows),
        samples_digest=to_hex(combine([report.log.samples_digest])),
        peak_memory_bytes=report.peak_memory_bytes,
        matmul_flop_per_s=report.matmul.best if report.matmul else None,
        stock_matmul_flop_per_s=report.matmul.stock if report.matmul else None,
    )


def _exposed(rows: summary.Rows, reports: Sequence[RankReport], period: int) -> ExposedCommunication:
    can_skip = WITHOUT_EXCHANGE in reports[0].probes_s
    exposed = summary.exposed_communication(
        rows,
        contention_s=[report.log.timed_contention_s for report in reports],
        with_exchange_s=[report.probes_s[FULL] if can_skip else [] for report in reports],
        without_exchange_s=[report.probes_s.get(WITHOUT_EXCHANGE, []) for report in reports],
        traced_s=[_means([step.exposed_communication_s for step in report.traced], period) for report in reports],
        copies_s=[_means([step.copies_s for step in report.traced], period) for report in reports],
        traced_step_s=[_means([step.wall_s for step in report.traced], period) for report in reports],
    )
    if reports[0].replayed is not None:  # a rank's trace cannot tell a wait for a stage that computes from a transfer
        exposed.trace_s = None
    if not can_skip:
        exposed.ablation_absent_because = CANNOT_SKIP
    return exposed


def _means(values: Sequence[float], period: int) -> list[float]:
    """Return the mean of each `period` values."""
    return [mean(values[start : start + period]) for start in range(0, len(values), period)]


def _bubble(rows: summary.Rows, replayed: Replayed | None) -> Bubble | None:
    """Return the bubble three ways: that of the first replica's replay beside that of all ranks' timed steps."""
    if replayed is None:
        return None
    observed_s = summary.phase_samples_s(rows, "bubble_s")
    compute_s = summary.phase_samples_s(rows, "compute_s")
    return Bubble(
        schedule=replayed.schedule,
        num_micro_batches=replayed.num_micro_batches,
        stage_layers=list(replayed.stage_layers),
        ideal_share=replayed.ideal_share,
        simulated_s=replayed.simulated_s,
        simulated_share=replayed.simulated_share,
        observed_s=measured(observed_s),
        observed_share=sum(observed_s) / (sum(observed_s) + sum(compute_s)),
    )


def _measuring_cost(reports: Sequence[RankReport], step_time_s: float, marks_s: float) -> MeasuringCost | None:
    if not reports[0].probes_s[FULL]:
        return None
    return summary.measuring_cost(
        [report.probes_s[FULL] for report in reports],
        [report.probes_s[UNMEASURED] for report in reports],
        step_time_s,
        marks_s,
    )
