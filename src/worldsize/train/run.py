"""One run on one rank, from config to result.json: the order of the steps is the content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from worldsize.checkpoint_folder import read
from worldsize.config.load import Loaded
from worldsize.config.schema import Config
from worldsize.data.batch import Samples
from worldsize.data.sampler import Sampler
from worldsize.data.task import TaskData, prepare_task
from worldsize.data.translation import Translation
from worldsize.errors import UserError
from worldsize.launch.lab import emulated_network
from worldsize.launch.progress import OnProgress, Progress
from worldsize.measure import environment, memory
from worldsize.measure.allocated import Allocated
from worldsize.measure.clock import NullClock, clock_for, marks_cost_s
from worldsize.measure.collectives import record
from worldsize.measure.energy import EnergyMeter
from worldsize.measure.link import all_reduce_bit_per_s
from worldsize.measure.matmul import MatmulRates, matmul_rates
from worldsize.measure.summary import timed
from worldsize.measure.trace import Event, TracedStep, collectives_of, save, steps_of, trace
from worldsize.models import cost
from worldsize.models.build import build
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import batches_for, strategy_name
from worldsize.parallel.local_sgd import period_of
from worldsize.parallel.registry import strategies
from worldsize.records import CollectiveCount, CommunicationBytes, EmulatedNetwork, RunRecord, StepRow
from worldsize.run_folder import RunWriter, trace_name
from worldsize.train.checkpoint import Checkpoints
from worldsize.train.evaluation import translate_held_out
from worldsize.train.feed import Feed
from worldsize.train.log import TrainLog
from worldsize.train.loop import Trainer
from worldsize.train.precision import MATMUL_DTYPE, in_precision
from worldsize.train.probe import one_step, probe, whole_periods
from worldsize.train.process_group import backend_for
from worldsize.train.result import RankReport, result_of
from worldsize.train.resume import load_log, load_rng, load_state, same_layout
from worldsize.train.running import Running, Where
from worldsize.train.track import Sinks

TELLING_TRACES = ("allreduce", "ddp")
"""Strategies of one group and of all-reduces alone: gloo's events tell these whichever thread issued them."""

UNTIMED_STEPS = 3
"""Steps in which memory is watched: where they are short, a reading may miss the moment of one."""


@dataclass(frozen=True)
class Job:
    """What the launcher hands to every rank."""

    loaded: Loaded
    out: Path
    command: Sequence[str]
    pinned_cores: Sequence[int] | None
    checkpoint: Path | None = None
    """What the run goes on from; None: it begins at its first step."""

    @property
    def config(self) -> Config:
        return self.loaded.config


def run(job: Job, context: RankContext, say: OnProgress, where: Where) -> None:
    """Train, probe and trace on this rank; rank 0 writes run.json first and result.json last. Called on every rank."""
    config = job.config
    data = prepare_task(config.data)
    samples, feed, held_out = _feeds(config, data, context)
    seed_dropout(config.train.seed, context)
    allocated = Allocated(context.device)
    model = in_precision(build(config.model, config.train.seed, context.device), config.train.precision)
    strategy = strategies()[strategy_name(config.parallel, context.world_size)]()
    strategy.prepare(model, config, context)
    running = Running(config, context, strategy, feed, clock_for(context.device), say, where)
    log = _taken_up(job.checkpoint, running, data.digest) if job.checkpoint else TrainLog()
    writer = RunWriter(job.out, context.rank, log.rows)
    run_record = _record(job, context, data, samples)
    if context.is_main:
        writer.write_run(run_record)
    matmul = _matmul_rates(config, context)
    energy = _train(running, held_out, writer, log, data.digest)
    writer.close()
    replayed = strategy.replayed(len(timed(log.rows)))  # of the steps that the observed bubble is of
    peak_memory_bytes = memory.peak_bytes(context.device)  # before the profiler takes its share
    if isinstance(held_out, Translation) and config.train.eval_translations > 0:
        log.evaluations[-1].translation = translate_held_out(running, held_out)
    probes_s = probe(running)
    allocated_bytes = allocated.most_in(lambda: _untimed_steps(running))
    traced, observed = _trace(running, job.out)
    report = RankReport(
        log=log,
        peak_memory_bytes=peak_memory_bytes,
        allocated_bytes=allocated_bytes,
        held_bytes=strategy.held_bytes(),
        matmul=matmul,
        energy_j=energy.joules,
        probes_s=probes_s,
        traced=traced,
        replayed=replayed,
    )
    reports = context.gather(report)
    if context.is_main:
        described = cost.describe(config.model)
        predicted = strategy.communication(strategy.settled(config), context.layout, described)
        communication = CommunicationBytes(predicted=predicted, observed=observed)
        writer.write_result(result_of(run_record, reports, communication, marks_cost_s(context.device), energy))


def _taken_up(path: Path, running: Running, tokens_digest: str) -> TrainLog:
    """Put a checkpoint's state into the prepared run and return the log of the steps that it has done.

    One step comes first whose traces the checkpoint overwrites: DDP settles the order of its buckets after a step, and
    with it the order in which gradients are summed, which must be that of the run that was not interrupted.
    """
    config, context, strategy = running.config, running.context, running.strategy
    running.where.stage = "resuming"
    checkpoint = read(path)
    if checkpoint.manifest.tokens_digest != tokens_digest:
        raise UserError(f"{path} was made on another text than data.source={config.data.source} now holds.")
    same = same_layout(checkpoint.manifest, context, strategy)
    if not same and checkpoint.step == config.train.steps:
        raise UserError(
            f"{path} holds the last of train.steps={config.train.steps} steps: in another layout nothing would be left "
            f"to time. Resume in the layout that it was made with, {checkpoint.manifest.layout}."
        )
    running.where.step = checkpoint.step
    running.say(Progress("resuming", checkpoint.step, config.train.steps))
    one_step(running, checkpoint.step, NullClock())
    load_state(checkpoint, strategy, context)
    load_rng(checkpoint, context, config.train.seed)
    return load_log(checkpoint, context, same_layout=same)


def _train(
    running: Running, held_out: Samples | None, writer: RunWriter, log: TrainLog, tokens_digest: str
) -> EnergyMeter:
    """Train with every sink open, adding to `log`; the energy returned is that of training alone."""
    config, context = running.config, running.context

    def checkpoints() -> Checkpoints:
        return Checkpoints(config, context, running.strategy, writer.folder, tokens_digest)

    counts_host = context.is_main if emulated_network() else context.local_rank == 0
    energy = EnergyMeter(context.device, counts_host=counts_host)
    with Sinks(config, writer.folder, enabled=context.is_main) as sinks:

        def on_rows(rows: list[StepRow], losses: list[float]) -> None:
            writer.write_steps(rows)
            sinks.log(rows, losses)

        energy.start()
        Trainer(running, held_out, on_rows, checkpoints, writer.rows_so_far, log).train()
        energy.stop()
    if log.resumed_after:
        energy.forget("the run was interrupted: the energy of its earlier part was not kept")
    return energy


def seed_dropout(seed: int, context: RankContext) -> None:
    """Seed this rank's own random numbers, which only dropout draws from, by (seed, share of the batch, tp, stage).

    Along tp each rank holds another part of the sequence or other heads, along pp other blocks, whose masks must not be
    each other's.
    """
    place = context.layout.coordinates(context.rank)
    entropy = [seed, context.data_rank, place["tp"], place["pp"]]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def _feeds(config: Config, data: TaskData, context: RankContext) -> tuple[Samples, Feed, Samples | None]:
    samples = data.samples(config, "train")
    batches = batches_for(config.train, context.layout)
    feed = Feed(samples, Sampler(samples.num_samples, config.train.seed), batches, context)
    evaluates = config.train.eval_samples > 0 and config.data.has_held_out
    return samples, feed, data.samples(config, "validation") if evaluates else None


def _record(job: Job, context: RankContext, data: TaskData, samples: Samples) -> RunRecord:
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
        tokens_digest=data.digest,
        num_parameters=cost.describe(config.model).num_parameters,
        flop_per_token=cost.flop_per_token(config.model, causal=True, lengths=_lengths(samples)),
        environment=environment.describe(
            torch_version=torch.__version__,
            device_kind=device.type,
            device_names=[n for _, _, n in hosts_cores_names],
            backend=backend_for(device) if context.world_size > 1 else None,
            threads_per_rank=torch.get_num_threads(),
            pinned_cores=cores or None,
            num_hosts=len({host for host, _, _ in hosts_cores_names}),
            emulated=_measured_network(context),
        ),
    )


def _measured_network(context: RankContext) -> EmulatedNetwork | None:
    """Return the emulated network that the ranks are on, with the rate that it gives. Called on every rank."""
    network = emulated_network()
    if network is None or context.world_size == 1:
        return None
    rate = all_reduce_bit_per_s(context, network.num_hosts)
    return network.model_copy(update={"all_reduce_bit_per_s": rate})


def _lengths(samples: Samples) -> list[int] | None:
    lengths = samples.text_lengths
    return None if lengths is None else [int(length) for length in lengths]


def _matmul_rates(config: Config, context: RankContext) -> MatmulRates | None:
    """Measure on all ranks at once, so that they share caches and clocks as they will in training."""
    if not config.measure.matmul:
        return None
    context.barrier()
    rates = matmul_rates(context.device, MATMUL_DTYPE[config.train.precision])
    memory.forget_peak(context.device)
    return rates


def _untimed_steps(running: Running) -> None:
    """Run a few steps, an exchange between local ones among them."""
    for _ in range(whole_periods(UNTIMED_STEPS, period_of(running.config))):
        one_step(running, running.config.train.steps, NullClock())


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
    """Return one step's collectives: by the libraries' own events where these tell all, else by the dispatcher."""
    layout = running.context.layout
    if layout.world_size == 1:
        return []
    if running.strategy.name in TELLING_TRACES:
        return collectives_of(events, {layout.dp: "dp"})
    period = period_of(running.config)
    return record(lambda: one_step(running, running.config.train.steps, running.clock), layout, period=period)
