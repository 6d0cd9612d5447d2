"""One run on one rank, from config to result.json: the order of the steps is the content."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldsize.config.load import Loaded
from worldsize.config.schema import Config
from worldsize.data.language_modelling import LanguageModelling
from worldsize.data.prepare import TokenFile, prepare
from worldsize.data.sampler import Sampler, combine, to_hex
from worldsize.launch.progress import OnProgress, Progress
from worldsize.measure import environment, memory, summary
from worldsize.measure.clock import StepClock, clock_for, marks_cost_s
from worldsize.measure.energy import EnergyMeter
from worldsize.measure.matmul import matmul_flop_per_s
from worldsize.measure.peaks import peak_flop_per_s
from worldsize.measure.statistics import measured
from worldsize.measure.trace import TracedStep, collectives_of, save, steps_of, trace
from worldsize.models import cost
from worldsize.models.decoder import build
from worldsize.parallel.layout import batches_for, strategy_name
from worldsize.parallel.registry import strategies
from worldsize.parallel.strategy import Strategy
from worldsize.records import (
    CollectiveCount,
    CommunicationBytes,
    RankSummary,
    RunRecord,
    RunResult,
    StepRow,
)
from worldsize.run_folder import RunWriter, trace_name
from worldsize.train.context import RankContext, backend_for
from worldsize.train.feed import Feed
from worldsize.train.loop import Trainer, TrainLog, Where
from worldsize.train.precision import MATMUL_DTYPE
from worldsize.train.probe import FULL, UNMEASURED, WITHOUT_EXCHANGE, one_step, probe
from worldsize.train.track import Sinks


@dataclass(frozen=True)
class Job:
    """What the launcher hands to every rank."""

    loaded: Loaded
    out: Path
    command: Sequence[str]
    pinned_cores: Sequence[int] | None

    @property
    def config(self) -> Config:
        return self.loaded.config


@dataclass(frozen=True)
class RankReport:
    """What each rank tells rank 0 at the end."""

    rows: list[StepRow]
    contention_s: list[float]
    samples_digest: int
    peak_memory_bytes: int
    matmul_flop_per_s: float | None
    energy_j: float | None
    probes_s: dict[str, list[float]]
    traced: list[TracedStep]


def run(job: Job, context: RankContext, say: OnProgress, where: Where) -> None:
    """Train, probe and trace on this rank; rank 0 writes run.json first and result.json last. Called on every rank."""
    config = job.config
    token_file = prepare(config.data)
    feed, held_out = _feeds(config, token_file, context)
    seed_dropout(config.train.seed, context)
    model = build(config.model, config.train.seed, context.device)
    strategy = strategies()[strategy_name(config.parallel, context.world_size)]()
    strategy.prepare(model, config, context)
    clock = clock_for(context.device)
    writer = RunWriter(job.out, context.rank)
    record = _record(job, context, model)
    if context.is_main:
        writer.write_run(record)
    matmul = _matmul_rate(config, context)
    energy = EnergyMeter(context.device)
    with Sinks(config, job.out, enabled=context.is_main) as sinks:

        def on_rows(rows: list[StepRow], losses: list[float]) -> None:
            writer.write_steps(rows)
            sinks.log(rows, losses)

        trainer = Trainer(
            config=config, context=context, strategy=strategy, model=model, feed=feed, held_out=held_out,
            clock=clock, on_rows=on_rows, say=say, where=where,
        )  # fmt: skip
        energy.start()
        began_s = time.perf_counter()
        log = trainer.train()
        wall_s = time.perf_counter() - began_s
        energy_j = energy.stop() if context.device.type == "cuda" or context.local_rank == 0 else 0.0
    writer.close()
    probes_s = _probe(config, strategy, feed, clock, context, say, where)
    traced, observed = _trace(job, strategy, feed, clock, context, say, where)
    report = RankReport(
        rows=log.rows,
        contention_s=[c for c, row in zip(log.contention_s, log.rows, strict=True) if not row.warmup],
        samples_digest=log.samples_digest,
        peak_memory_bytes=memory.peak_bytes(context.device),
        matmul_flop_per_s=matmul,
        energy_j=energy_j,
        probes_s=probes_s,
        traced=traced,
    )
    reports = context.gather(report)
    if context.is_main:
        predicted = strategy.communication(config, context.layout, cost.describe(config.model))
        communication = CommunicationBytes(predicted=predicted, observed=observed)
        result = _result(record, context, log, reports, communication, wall_s, energy.absent_because)
        writer.write_result(result)


def seed_dropout(seed: int, context: RankContext) -> None:
    """Seed this rank's own random numbers, which only dropout draws from, by (seed, share of the batch)."""
    torch.manual_seed(int(np.random.SeedSequence([seed, context.data_rank]).generate_state(1)[0]))


def _feeds(config: Config, token_file: TokenFile, context: RankContext) -> tuple[Feed, LanguageModelling | None]:
    length = config.model.context_length
    data = LanguageModelling(token_file, length, "train")
    batches = batches_for(config.train, context.layout)
    feed = Feed(data, Sampler(data.num_samples, config.train.seed), batches, context)
    evaluates = config.train.eval_samples > 0 and config.data.validation_fraction > 0
    return feed, LanguageModelling(token_file, length, "validation") if evaluates else None


def _record(job: Job, context: RankContext, model: torch.nn.Module) -> RunRecord:
    config, device = job.config, context.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else environment.cpu_name() or "cpu"
    hosts_cores_names = context.gather((environment.hostname(), job.pinned_cores, name))
    cores = [list(c) for _, c, _ in hosts_cores_names if c is not None]
    return RunRecord(
        config=config.model_dump(),
        origins=job.loaded.origins,
        command=list(job.command),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        world_size=context.world_size,
        layout=context.layout.as_dict(),
        strategy=strategy_name(config.parallel, context.world_size),
        num_parameters=sum(p.numel() for p in model.parameters()),
        flop_per_token=cost.flop_per_token(config.model, causal=True),
        environment=environment.describe(
            torch_version=torch.__version__,
            device_kind=device.type,
            device_names=[n for _, _, n in hosts_cores_names],
            backend=backend_for(device) if context.world_size > 1 else None,
            threads_per_rank=torch.get_num_threads(),
            pinned_cores=cores or None,
            num_hosts=len({host for host, _, _ in hosts_cores_names}),
        ),
    )


def _matmul_rate(config: Config, context: RankContext) -> float | None:
    """Measure on all ranks at once, so that they share caches and clocks as they will in training."""
    if not config.measure.matmul:
        return None
    context.barrier()
    return matmul_flop_per_s(context.device, MATMUL_DTYPE[config.train.precision])


def _probe(
    config: Config,
    strategy: Strategy,
    feed: Feed,
    clock: StepClock,
    context: RankContext,
    say: OnProgress,
    where: Where,
) -> dict[str, list[float]]:
    where.stage = "probing"
    num_rounds = config.measure.probe_rounds
    return probe(
        strategy,
        feed,
        clock,
        context,
        first_step=config.train.steps,
        num_rounds=num_rounds,
        on_round=lambda index: say(Progress("probing", index, num_rounds)),
    )


def _trace(
    job: Job,
    strategy: Strategy,
    feed: Feed,
    clock: StepClock,
    context: RankContext,
    say: OnProgress,
    where: Where,
) -> tuple[list[TracedStep], list[CollectiveCount] | None]:
    measure = job.config.measure
    if measure.trace_steps == 0:
        return [], None
    where.stage = "tracing"
    say(Progress("tracing", 0, measure.trace_steps))
    step = job.config.train.steps
    run_step: Callable[[], None] = lambda: one_step(strategy, feed, step, context.device, clock)  # noqa: E731
    events = trace(run_step, context.barrier, num_steps=measure.trace_steps, device=context.device)
    if measure.keep_trace:
        save(events, job.out / trace_name(context.rank))
    axes = {size: axis for axis, size in context.layout.as_dict().items() if size > 1}
    observed = collectives_of(events, axes) if axes else []
    return steps_of(events), observed


def _result(
    record: RunRecord,
    context: RankContext,
    log: TrainLog,
    reports: Sequence[RankReport],
    communication: CommunicationBytes,
    wall_s: float,
    energy_absent_because: str | None,
) -> RunResult:
    """Put all ranks' numbers together. Rank 0 only."""
    rows = {rank: report.rows for rank, report in enumerate(reports)}
    timed_steps = summary.timed(reports[0].rows)
    step_time = measured(summary.step_times_s(rows))
    tokens = sum(row.num_tokens for report in reports for row in summary.timed(report.rows)) / len(timed_steps)
    flop_per_s = tokens * record.flop_per_token / step_time.median / context.world_size
    rates = [report.matmul_flop_per_s for report in reports if report.matmul_flop_per_s]
    peak, peak_note = peak_flop_per_s(record.environment.device_names[0], record.config["train"]["precision"])
    energies = [report.energy_j for report in reports]
    return RunResult(
        world_size=context.world_size,
        layout=record.layout,
        strategy=record.strategy,
        num_steps=len(reports[0].rows),
        num_warmup_steps=len(reports[0].rows) - len(timed_steps),
        samples_digest=to_hex(combine(report.samples_digest for report in reports)),
        samples_digest_expected=to_hex(combine([log.prescribed_digest])),
        num_samples=sum(row.num_samples for report in reports for row in report.rows),
        num_tokens=sum(row.num_tokens for report in reports for row in report.rows),
        losses=summary.losses(rows),
        grad_norms=[row.grad_norm for row in reports[0].rows],
        local_grad_norms=summary.local_grad_norms(rows),
        evaluations=log.evaluations,
        checksums=log.checksums,
        step_time_s=step_time,
        phases_s=summary.phases_s(rows),
        tokens_per_s=tokens / step_time.median,
        peak_memory_bytes=[report.peak_memory_bytes for report in reports],
        ranks=[_rank_summary(rank, report) for rank, report in enumerate(reports)],
        communication_bytes=communication,
        exposed_communication=_exposed(rows, reports) if context.world_size > 1 else None,
        model_flop_per_s=flop_per_s,
        mfu=flop_per_s / peak if peak else None,
        mfu_absent_because=None if peak else peak_note,
        mfu_vs_measured_matmul=flop_per_s / (sum(rates) / len(rates)) if rates else None,
        measuring_cost=_measuring_cost(reports, step_time.median, context),
        energy_j=sum(e for e in energies if e is not None) if None not in energies else None,
        energy_absent_because=energy_absent_because,
        wall_s=wall_s,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _rank_summary(rank: int, report: RankReport) -> RankSummary:
    return RankSummary(
        rank=rank,
        step_time_s=measured([row.wall_s for row in summary.timed(report.rows)]).median,
        phases_s=summary.rank_phases_s(report.rows),
        num_samples=sum(row.num_samples for row in report.rows),
        num_tokens=sum(row.num_tokens for row in report.rows),
        samples_digest=to_hex(combine([report.samples_digest])),
        peak_memory_bytes=report.peak_memory_bytes,
        matmul_flop_per_s=report.matmul_flop_per_s,
    )


def _exposed(rows: summary.Rows, reports: Sequence[RankReport]) -> Any:
    return summary.exposed_communication(
        rows,
        contention_s=[report.contention_s for report in reports],
        with_exchange_s=[report.probes_s[FULL] for report in reports],
        without_exchange_s=[report.probes_s[WITHOUT_EXCHANGE] for report in reports],
        traced_s=[[step.exposed_communication_s for step in report.traced] for report in reports],
        copies_s=[[step.copies_s for step in report.traced] for report in reports],
    )


def _measuring_cost(reports: Sequence[RankReport], step_time_s: float, context: RankContext) -> Any:
    if not reports[0].probes_s[FULL]:
        return None
    return summary.measuring_cost(
        [report.probes_s[FULL] for report in reports],
        [report.probes_s[UNMEASURED] for report in reports],
        step_time_s,
        marks_cost_s(context.device),
    )
