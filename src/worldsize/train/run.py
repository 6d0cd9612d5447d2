"""One run on one rank, from config to result.json: the order of the steps is the content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from worldsize.config.load import Loaded
from worldsize.config.schema import Config
from worldsize.data.language_modelling import LanguageModelling
from worldsize.data.prepare import prepare
from worldsize.data.sampler import Sampler
from worldsize.data.token_file import TokenFile
from worldsize.launch.progress import OnProgress, Progress
from worldsize.measure import environment, memory
from worldsize.measure.clock import clock_for, marks_cost_s
from worldsize.measure.collectives import record
from worldsize.measure.energy import EnergyMeter
from worldsize.measure.matmul import MatmulRates, matmul_rates
from worldsize.measure.trace import Event, TracedStep, collectives_of, save, steps_of, trace
from worldsize.models import cost
from worldsize.models.decoder import build
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import batches_for, strategy_name
from worldsize.parallel.local_sgd import period_of
from worldsize.parallel.registry import strategies
from worldsize.records import CollectiveCount, CommunicationBytes, RunRecord, StepRow
from worldsize.run_folder import RunWriter, trace_name
from worldsize.train.feed import Feed
from worldsize.train.loop import Trainer, TrainLog
from worldsize.train.precision import MATMUL_DTYPE, in_precision
from worldsize.train.probe import one_step, probe, whole_periods
from worldsize.train.process_group import backend_for
from worldsize.train.result import RankReport, result_of
from worldsize.train.running import Running, Where
from worldsize.train.track import Sinks

TELLING_TRACES = ("allreduce", "ddp")
"""Strategies of one group and of all-reduces alone: gloo's events tell these whichever thread issued them."""


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


def run(job: Job, context: RankContext, say: OnProgress, where: Where) -> None:
    """Train, probe and trace on this rank; rank 0 writes run.json first and result.json last. Called on every rank."""
    config = job.config
    token_file = prepare(config.data)
    feed, held_out = _feeds(config, token_file, context)
    seed_dropout(config.train.seed, context)
    model = in_precision(build(config.model, config.train.seed, context.device), config.train.precision)
    strategy = strategies()[strategy_name(config.parallel, context.world_size)]()
    strategy.prepare(model, config, context)
    running = Running(config, context, strategy, feed, clock_for(context.device), say, where)
    writer = RunWriter(job.out, context.rank)
    run_record = _record(job, context, token_file)
    if context.is_main:
        writer.write_run(run_record)
    matmul = _matmul_rates(config, context)
    log, energy = _train(running, held_out, writer)
    writer.close()
    peak_memory_bytes = memory.peak_bytes(context.device)  # before the profiler takes its share
    probes_s = probe(running)
    traced, observed = _trace(running, job.out)
    report = RankReport(log, peak_memory_bytes, matmul, energy.joules, probes_s, traced)
    reports = context.gather(report)
    if context.is_main:
        predicted = strategy.communication(config, context.layout, cost.describe(config.model))
        communication = CommunicationBytes(predicted=predicted, observed=observed)
        writer.write_result(result_of(run_record, reports, communication, marks_cost_s(context.device), energy))


def _train(running: Running, held_out: LanguageModelling | None, writer: RunWriter) -> tuple[TrainLog, EnergyMeter]:
    """Train with every sink open; the energy is that of training alone."""
    config, context = running.config, running.context
    energy = EnergyMeter(context.device, counts_host=context.local_rank == 0)
    with Sinks(config, writer.folder, enabled=context.is_main) as sinks:

        def on_rows(rows: list[StepRow], losses: list[float]) -> None:
            writer.write_steps(rows)
            sinks.log(rows, losses)

        energy.start()
        log = Trainer(running, held_out, on_rows).train()
        energy.stop()
    return log, energy


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


def _record(job: Job, context: RankContext, token_file: TokenFile) -> RunRecord:
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
        tokens_digest=token_file.digest,
        num_parameters=cost.describe(config.model).num_parameters,
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


def _matmul_rates(config: Config, context: RankContext) -> MatmulRates | None:
    """Measure on all ranks at once, so that they share caches and clocks as they will in training."""
    if not config.measure.matmul:
        return None
    context.barrier()
    rates = matmul_rates(context.device, MATMUL_DTYPE[config.train.precision])
    memory.forget_peak(context.device)
    return rates


def _trace(running: Running, out: Path) -> tuple[list[TracedStep], list[CollectiveCount] | None]:
    """Profile a few steps; return them and the collectives that one of them issued, or None when none was traced."""
    config, context = running.config, running.context
    if config.measure.trace_steps == 0:
        return [], None
    running.where.stage = "tracing"
    running.say(Progress("tracing", 0, config.measure.trace_steps))
    events = trace(
        lambda: one_step(running, config.train.steps, running.clock),
        context.barrier,
        num_steps=whole_periods(config.measure.trace_steps, period_of(config)),
        device=context.device,
    )
    if config.measure.keep_trace:
        save(events, out / trace_name(context.rank))
    return steps_of(events), _observed(running, events)


def _observed(running: Running, events: list[Event]) -> list[CollectiveCount]:
    """Return one step's collectives: by the libraries' events in the trace where these tell all, else as issued."""
    layout = running.context.layout
    if layout.world_size == 1:
        return []
    if running.strategy.name in TELLING_TRACES:
        return collectives_of(events, {layout.dp: "dp"})
    period = period_of(running.config)
    return record(lambda: one_step(running, running.config.train.steps, running.clock), layout, period=period)
