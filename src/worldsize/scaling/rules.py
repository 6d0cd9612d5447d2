"""What makes a measured cell unfit or doubtful: one small function a rule, listed in RULES and SPEEDUP_RULES.

A new rule is a function from Context to a list of problems, added to a tuple. A rule that blocks withholds the
speedup; one that warns stands beside it. RULES are asked of every cell; SPEEDUP_RULES only where a speedup (under weak
scaling, an efficiency) is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worldsize.parallel.local_sgd import period_of
from worldsize.records import Measured, Problem
from worldsize.scaling.rules_maths import other_maths
from worldsize.scaling.rules_timing import TIMING_RULES
from worldsize.scaling.slow_rank import slow_ranks
from worldsize.scaling.speedup import relative_width
from worldsize.scaling.wording import percent
from worldsize.study.cells import MeasuredCell
from worldsize.study.comparability import checksums_at, compare, in_runs
from worldsize.study.files import Run
from worldsize.study.grid import Scaling

LOCK_STEP = 0.05
NOISY = 0.10
BOOKS = 0.01
UNEXPLAINED = 0.05
ENOUGH_REPEATS = 3


@dataclass(frozen=True)
class Context:
    """What a rule may look at: a cell with at least one run, and what it is compared with."""

    cell: MeasuredCell
    baseline: MeasuredCell
    """The cell itself where it is its own baseline."""
    scaling: Scaling
    step_time_s: Measured
    baseline_problems: Sequence[Problem] = ()
    speedup: Measured | None = None
    """Under weak scaling: N × efficiency. None while RULES are asked."""


def every_rank_all_data(context: Context) -> list[Problem]:
    """A sampler that was not sharded: an epoch's time then shows nothing of the added devices."""

    def find(run: Run) -> str | None:
        batch = run.config.train.global_batch
        expected = batch * run.result.num_steps
        excess = run.result.num_samples / expected
        if run.record.world_size == 1 or excess < 1.5 or any(rank.num_samples < expected for rank in run.result.ranks):
            return None
        return (
            f"each rank consumed all {batch} samples of a step; {excess:.3g}x the samples of the same work on one "
            f"device. The sampler does not divide a step's samples among the ranks"
        )

    return in_runs("every-rank-all-data", "blocks", context.cell.runs, find)


def samples_not_prescribed(context: Context) -> list[Problem]:
    """The consumed sample ids are not those that seed, step and global batch prescribe."""

    def find(run: Run) -> str | None:
        consumed, prescribed = run.result.samples_digest, run.result.samples_digest_expected
        if consumed == prescribed:
            return None
        expected = run.config.train.global_batch * run.result.num_steps
        return (
            f"the samples consumed are not those that seed {run.config.train.seed} prescribes (digest {consumed[:8]}… "
            f"against {prescribed[:8]}…; {run.result.num_samples} samples, {expected} prescribed). "
            f"Ranks with different seeds, samples seen twice or left out do this"
        )

    return in_runs("samples-not-prescribed", "blocks", context.cell.runs, find)


def ranks_start_apart(context: Context) -> list[Problem]:
    """Replicas with different weights before the first step."""

    def find(run: Run) -> str | None:
        by_rank = checksums_at(run, 0)
        if len(set(by_rank)) <= 1:
            return None
        odd = next(rank for rank, checksum in enumerate(by_rank) if checksum != by_rank[0])
        return (
            f"the weights before the first step differ between ranks (rank 0 {by_rank[0][:8]}…, rank {odd} "
            f"{by_rank[odd][:8]}…): the ranks started from different seeds"
        )

    return in_runs("ranks-start-apart", "blocks", context.cell.runs, find)


def ranks_part(context: Context) -> list[Problem]:
    """Replicas that began alike and drifted apart: an update or an exchange was missed."""

    def find(run: Run) -> str | None:
        period = period_of(run.config)  # between two averages of local_sgd weights differ, and should
        agree = [c for c in run.result.checksums if c.step > 0 and c.step % period == 0]
        parted = [c.step for c in agree if len(set(c.by_rank)) > 1]
        if not parted or len(set(checksums_at(run, 0))) > 1:
            return None
        return f"the ranks' weights differ after step {parted[0]}: an exchange of gradients was missed or not complete"

    return in_runs("ranks-part", "blocks", context.cell.runs, find)


def same_work(context: Context) -> list[Problem]:
    """Everything in study/comparability.py, against the baseline's first run."""
    if not context.baseline.runs:
        message = f"the baseline {context.baseline.name} has no finished run to compare with"
        return [Problem(rule="no-baseline", severity="blocks", message=message)]
    return compare(context.cell.runs, context.baseline.runs[0], context.scaling)


def unfit_baseline(context: Context) -> list[Problem]:
    """A baseline that is itself unfit."""
    faults = [problem.message for problem in context.baseline_problems if problem.severity == "blocks"]
    if context.cell.is_baseline or not faults:
        return []
    message = f"the baseline {context.baseline.name} is itself unfit: {faults[0]}"
    return [Problem(rule="unfit-baseline", severity="blocks", message=message)]


def slow_rank(context: Context) -> list[Problem]:
    """A rank that computes a tenth longer than the others (scaling/slow_rank.py)."""
    return [Problem(rule="slow-rank", severity="warns", message=message) for message in slow_ranks(context.cell)]


def out_of_lock_step(context: Context) -> list[Problem]:
    """Ranks that exchange gradients in every step end it together: different step times mean a broken clock."""

    def find(run: Run) -> str | None:
        times_s = [rank.step_time_s for rank in run.result.ranks]
        gap = max(times_s) / min(times_s) - 1
        if gap <= LOCK_STEP:
            return None
        fast, slow = times_s.index(min(times_s)), times_s.index(max(times_s))
        return (
            f"ranks in lock-step cannot differ in step time, but rank {slow} shows {times_s[slow] * 1e3:.1f} ms "
            f"and rank {fast} {times_s[fast] * 1e3:.1f} ms ({percent(gap)} apart): they do not wait for each "
            f"other, or a clock is wrong"
        )

    return in_runs("out-of-lock-step", "warns", context.cell.runs, find)


def too_few_cores(context: Context) -> list[Problem]:
    """More ranks than cores, or cores shared by ranks: then adding a rank adds no device."""

    def find(run: Run) -> str | None:
        environment = run.record.environment
        if environment.device_kind != "cpu":
            return None
        needed, present = (
            run.record.world_size * environment.threads_per_rank,
            environment.num_cores * environment.num_hosts,
        )
        if needed > present:
            return f"{needed} cores are needed ({run.record.world_size} ranks), {present} exist: the ranks share cores"
        pinned = [core for cores in environment.pinned_cores or [] for core in cores]
        if environment.num_hosts == 1 and len(set(pinned)) < len(pinned):
            return f"ranks are pinned to the same cores ({environment.pinned_cores})"
        return None

    return in_runs("too-few-cores", "warns", context.cell.runs, find)


def gloo_with_gpus(context: Context) -> list[Problem]:
    """Gloo between GPUs checks that training works; how fast it is says nothing of NCCL."""

    def find(run: Run) -> str | None:
        environment = run.record.environment
        if environment.backend != "gloo" or environment.device_kind == "cpu":
            return None
        return "gloo carried the exchange between GPUs: a functional check only, its times say nothing about NCCL"

    return in_runs("gloo-with-gpus", "warns", context.cell.runs, find)


def few_repeats(context: Context) -> list[Problem]:
    """With fewer than three repeats the interval knows little or nothing of how whole runs differ."""
    num_runs = len(context.cell.runs)
    if num_runs >= ENOUGH_REPEATS:
        return []
    message = (
        f"{num_runs} finished repeat{'s' * (num_runs > 1)}: too few for the interval to show how whole runs differ; "
        f"use --repeats 3 or more"
    )
    return [Problem(rule="few-repeats", severity="warns", message=message)]


def noisy_baseline(context: Context) -> list[Problem]:
    """A step time whose interval is wider than a tenth."""
    width = relative_width(context.step_time_s)
    if not context.cell.is_baseline or width <= NOISY:
        return []
    message = (
        f"the step time's interval is {percent(width)} wide: something else used the machine, or steps are too few"
    )
    return [Problem(rule="noisy", severity="warns", message=message)]


def warmup_never_left(context: Context) -> list[Problem]:
    """Learning-rate warm-up that covers the whole run: its loss says nothing about training at the peak rate."""

    def find(run: Run) -> str | None:
        warmup, steps = run.config.optimizer.warmup_steps, run.config.train.steps
        if warmup < steps:
            return None
        return f"the learning rate was still warming up when the run ended ({warmup} warm-up steps, {steps} steps)"

    return in_runs("warmup-never-left", "warns", context.cell.runs, find)


def books_do_not_close(context: Context) -> list[Problem]:
    """Phases that do not sum to the step, or leave too much of it unexplained."""

    def find(run: Run) -> str | None:
        step_s, phases = run.result.step_time_s.median, run.result.phases_s
        gap = abs(sum(phases.values()) - step_s) / step_s
        if gap > BOOKS:
            return f"the phases sum to {sum(phases.values()) * 1e3:.1f} ms, the step took {step_s * 1e3:.1f} ms"
        other = phases.get("other_s", 0.0) / step_s
        return f"{percent(other)} of the step belongs to no known phase (other_s)" if other > UNEXPLAINED else None

    return in_runs("books-do-not-close", "warns", context.cell.runs, find)


def unpredicted_bytes(context: Context) -> list[Problem]:
    """Bytes on the wire that the strategy did not foresee."""

    def find(run: Run) -> str | None:
        counts = run.result.communication_bytes
        predicted, observed = (
            sum(count.payload_bytes for count in each or []) for each in (counts.predicted, counts.observed)
        )
        if counts.observed is None or predicted == observed:
            return None
        return f"{observed} bytes were handed to collectives in a step, the strategy predicts {predicted}"

    return in_runs("unpredicted-bytes", "warns", context.cell.runs, find)


def noisy_speedup(context: Context) -> list[Problem]:
    """A speedup whose interval is wider than a tenth."""
    if context.speedup is None or (width := relative_width(context.speedup)) <= NOISY:
        return []
    message = (
        f"the interval of the ratio is {percent(width)} wide ({context.speedup.low:.2f}-{context.speedup.high:.2f}): "
        f"run it on a quieter machine, with more repeats or more steps"
    )
    return [Problem(rule="noisy", severity="warns", message=message)]


def super_linear(context: Context) -> list[Problem]:
    """More than N times as fast on N times the devices."""
    devices = context.cell.world_size / context.baseline.world_size
    if context.speedup is None or devices == 1:
        return []
    spread = relative_width(context.speedup) / 2
    if context.speedup.median <= devices * (1 + spread):
        return []
    message = (
        f"{context.speedup.median:.2f}x on {devices:g}x the devices is more than linear. Check that the baseline "
        f"ran as fast as it can (same cores and threads a device, nothing else running, not short of memory), then "
        f"whether the smaller share of a device now fits a cache"
    )
    return [Problem(rule="super-linear", severity="warns", message=message)]


RULES: tuple[Callable[[Context], list[Problem]], ...] = (
    every_rank_all_data,
    ranks_start_apart,
    ranks_part,
    samples_not_prescribed,
    other_maths,
    same_work,
    unfit_baseline,
    slow_rank,
    out_of_lock_step,
    too_few_cores,
    gloo_with_gpus,
    few_repeats,
    noisy_baseline,
    warmup_never_left,
    books_do_not_close,
    unpredicted_bytes,
    *TIMING_RULES,
)
SPEEDUP_RULES: tuple[Callable[[Context], list[Problem]], ...] = (noisy_speedup, super_linear)
