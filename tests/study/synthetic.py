"""Run and study folders as the trainer would write them, from figures a test chooses; each known fault on request.

The numbers follow a small cost model, so that a test knows the answers: compute divides over the devices, the optimizer
does not (as under DDP), and more than one device pays for exposed communication.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.study.synthetic_work import (
    CONTEXT_LENGTH,
    DERIVED,
    NUM_PARAMETERS,
    digest,
    exposed_three_ways,
    losses_of,
    make_config,
    make_environment,
    norm_of,
    phases_of,
    rank_digest,
    sample_ids,
    settings_of,
    summary,
)
from worldsize.config.schema import Config
from worldsize.measure.statistics import measured
from worldsize.records import (
    PHASES,
    Checksum,
    CollectiveCount,
    CommunicationBytes,
    Evaluation,
    MeasuringCost,
    Origin,
    RunRecord,
    RunResult,
    StepRow,
)
from worldsize.run_folder import flatten
from worldsize.study.records import StudyPlan


def make_run(
    folder: Path,
    *,
    world_size: int = 1,
    step_time_s: float | None = None,
    phases: Mapping[str, float] | None = None,
    global_batch: int = 64,
    num_steps: int = 25,
    num_warmup_steps: int = 5,
    losses: Sequence[float] | None = None,
    seed: int = 0,
    noise: float = 0.005,
    noise_seed: int = 0,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    every_rank_all_data: bool = False,
    ranks_seeded_differently: bool = False,
    slow_rank: int | None = None,
    slowdown: float = 1.2,
    out_of_step: float = 0.0,
    memory: float = 0.0,
    noise_scale: float | None = None,
    started_at: str = "2026-01-01T00:00:00+00:00",
) -> Path:
    """Write one finished run and return its folder.

    `phases` are the ranks' mean phases in seconds and sum to the step time; `step_time_s` scales them to that sum.
    `noise` is the relative spread of step times. `config` holds dotted keys, `environment` fields to change.
    Faults: `every_rank_all_data` (a sampler that forgot to shard), `ranks_seeded_differently`, `slow_rank` (its
    compute takes `slowdown` times as long and the others wait), `out_of_step` (relative gap between ranks' step times).
    `memory` is how much of one step's deviation the next keeps; `noise_scale` the gradient's (norms follow from it).
    """
    phases = dict(phases or phases_of(world_size, global_batch))
    if step_time_s is not None:
        scale = step_time_s / sum(phases.values())
        phases = {name: seconds * scale for name, seconds in phases.items()}
    tree = make_config(world_size, global_batch, num_steps, seed, config or {})
    losses = (
        list(losses)
        if losses is not None
        else losses_of(num_steps, seed + 100 * ranks_seeded_differently, global_batch)
    )
    rows = _rows(
        phases,
        world_size,
        global_batch,
        losses,
        num_warmup_steps,
        noise,
        noise_seed,
        every_rank_all_data,
        slow_rank,
        slowdown,
        out_of_step,
        memory,
        noise_scale,
    )
    folder.mkdir(parents=True, exist_ok=True)
    record = RunRecord(
        config=tree,
        origins={key: Origin(value=flatten(tree)[key], source="derived") for key in DERIVED},
        command=["worldsize", "train", "config.yaml"],
        started_at=started_at,
        world_size=world_size,
        layout={"dp": world_size, "fsdp": 1, "tp": 1, "pp": 1},
        strategy="single" if world_size == 1 else "ddp",
        num_parameters=NUM_PARAMETERS,
        flop_per_token=6.0 * NUM_PARAMETERS,
        environment=make_environment(world_size, environment or {}),
    )
    result = _result(rows, losses, global_batch, num_warmup_steps, seed, every_rank_all_data, ranks_seeded_differently)
    (folder / "run.json").write_text(record.model_dump_json(indent=1))
    for rank, rank_rows in enumerate(rows):
        text = "".join(row.model_dump_json() + "\n" for row in rank_rows)
        (folder / f"steps.rank{rank}.jsonl").write_text(text)
    (folder / "result.json").write_text(result.model_dump_json(indent=1))
    return folder


def _rows(
    phases: Mapping[str, float],
    world_size: int,
    global_batch: int,
    losses: Sequence[float],
    num_warmup_steps: int,
    noise: float,
    noise_seed: int,
    every_rank_all_data: bool,
    slow_rank: int | None,
    slowdown: float,
    out_of_step: float,
    memory: float,
    noise_scale: float | None,
) -> list[list[StepRow]]:
    """Ranks end a step together: who computes for longer waits for less."""
    rng = np.random.default_rng(noise_seed)
    drift = rng.normal(0, noise / 2)  # this run is a little slower or faster than another
    num_samples = global_batch if every_rank_all_data else global_batch // world_size
    rows: list[list[StepRow]] = [[] for _ in range(world_size)]
    deviation = 0.0
    for step, loss in enumerate(losses):
        deviation = memory * deviation + np.sqrt(1 - memory**2) * rng.normal(0, noise)
        pace = max(0.5, 1 + drift + deviation) * (3.0 if step == 0 else 1.0)
        for rank in range(world_size):
            own = {name: phases[name] * pace for name in PHASES}
            if world_size > 1:
                swing = own["compute_s"] * rng.normal(0, noise / 2)
                swing = float(np.clip(swing, -own["exposed_communication_s"] / 2, own["exposed_communication_s"] / 2))
                own["compute_s"] += swing
                own["exposed_communication_s"] -= swing
            if slow_rank is not None:
                extra = phases["compute_s"] * pace * (slowdown - 1)
                own["compute_s" if rank == slow_rank else "exposed_communication_s"] += extra
            if rank == world_size - 1:
                own["other_s"] += out_of_step * sum(own.values())
            num_tokens = num_samples * CONTEXT_LENGTH
            rows[rank].append(
                StepRow(
                    step=step,
                    warmup=step < num_warmup_steps,
                    wall_s=sum(own.values()),
                    phases_s=own,
                    num_samples=num_samples,
                    num_tokens=num_tokens,
                    loss_sum=loss * num_tokens,
                    grad_norm=norm_of(noise_scale, global_batch),
                    local_grad_norm=norm_of(noise_scale, num_samples) if noise_scale and world_size > 1 else None,
                    learning_rate=1e-3,
                    memory_bytes=300 * 2**20,
                )
            )
    return rows


def _result(
    rows: Sequence[Sequence[StepRow]],
    losses: Sequence[float],
    global_batch: int,
    num_warmup_steps: int,
    seed: int,
    all_data: bool,
    seeds_differ: bool,
) -> RunResult:
    world_size, num_steps = len(rows), len(losses)
    prescribed = sum(digest(step, sample_ids(step, global_batch, seed)) for step in range(num_steps))
    rank_digests = [
        rank_digest(r, world_size, num_steps, global_batch, seed + r * seeds_differ, all_data=all_data)
        for r in range(world_size)
    ]
    ranks = [summary(rank, rows[rank], rank_digests[rank]) for rank in range(world_size)]
    slowest = [max(row.wall_s for row in step) for step in zip(*rows, strict=True)][num_warmup_steps:]
    step_time = measured(slowest)
    means = {name: float(np.mean([rank.phases_s[name] for rank in ranks])) for name in PHASES}
    scale = step_time.median / sum(means.values())
    phases = {name: seconds * scale for name, seconds in means.items()}
    num_tokens = sum(rank.num_tokens for rank in ranks)
    tokens_per_s = num_tokens / num_steps / step_time.median
    exchange = CollectiveCount(kind="all_reduce", group="dp", group_size=world_size, payload_bytes=4 * NUM_PARAMETERS)
    exchanges = [exchange] if world_size > 1 else []
    weights = [
        hashlib.blake2b(f"weights {seed + rank * seeds_differ}".encode(), digest_size=16).hexdigest()
        for rank in range(world_size)
    ]
    return RunResult(
        world_size=world_size,
        layout={"dp": world_size, "fsdp": 1, "tp": 1, "pp": 1},
        strategy="single" if world_size == 1 else "ddp",
        num_steps=num_steps,
        num_warmup_steps=num_warmup_steps,
        samples_digest=f"{sum(rank_digests) % 2**128:032x}",
        samples_digest_expected=f"{prescribed % 2**128:032x}",
        num_samples=sum(rank.num_samples for rank in ranks),
        num_tokens=num_tokens,
        losses=list(losses),
        grad_norms=[row.grad_norm for row in rows[0]],
        local_grad_norms=[row.local_grad_norm for row in rows[0]],
        evaluations=[Evaluation(step=num_steps, loss=losses[-1] + 0.1, num_tokens=4096)],
        checksums=[Checksum(step=0, by_rank=weights), Checksum(step=num_steps, by_rank=[w[::-1] for w in weights])],
        step_time_s=step_time,
        phases_s=phases,
        tokens_per_s=tokens_per_s,
        peak_memory_bytes=[rank.peak_memory_bytes for rank in ranks],
        allocated_bytes=[300 * 2**20 + rank.rank for rank in ranks],
        held_bytes=[200 * 2**20] * world_size,
        ranks=ranks,
        communication_bytes=CommunicationBytes(predicted=exchanges, observed=exchanges),
        exposed_communication=exposed_three_ways(phases) if world_size > 1 else None,
        model_flop_per_s=6.0 * NUM_PARAMETERS * tokens_per_s / world_size,
        mfu=None,
        mfu_absent_because="the peak of this CPU is not known",
        mfu_vs_measured_matmul=6.0 * NUM_PARAMETERS * tokens_per_s / world_size / 9e11,
        measuring_cost=MeasuringCost(per_step_s=measured([1e-4, 1.2e-4, 0.8e-4]), share_of_step=0.002, marks_s=2e-5),
        energy_absent_because="no counter can be read",
        wall_s=float(sum(row.wall_s for row in rows[0])),
        finished_at="2026-01-01T00:01:00+00:00",
    )


def make_study(
    folder: Path,
    *,
    world_sizes: Sequence[int] = (1, 2),
    global_batches: Sequence[int] = (64,),
    repeats: int = 3,
    scaling: str = "strong",
    vary: Mapping[str, Sequence[Any]] | None = None,
    faults: Mapping[str, Mapping[str, Any]] | None = None,
    **common: Any,
) -> Path:
    """Write a finished study and return its folder.

    Under weak scaling `global_batches` stand for the smallest world size. `vary` takes one key. `faults` maps a cell's
    name ('n2-b64') to more arguments of `make_run` for all its repeats; `common` goes to every run.
    """
    vary = dict(vary or {})
    for world_size in world_sizes:
        for batch in global_batches:
            global_batch = batch * world_size // min(world_sizes) if scaling == "weak" else batch
            for settings in settings_of(vary):
                leaf = "".join(f"-{key.split('.')[-1]}{value}" for key, value in settings.items())
                name = f"n{world_size}-b{global_batch}{leaf}"
                for repeat in range(1, repeats + 1):
                    more = {**common, **(faults or {}).get(name, {})}
                    more["config"] = {**settings, **more.get("config", {})}
                    noise_seed = int.from_bytes(
                        hashlib.blake2b(f"{name}/{repeat}".encode(), digest_size=4).digest(), "big"
                    )
                    make_run(
                        folder / "runs" / name / f"r{repeat}",
                        **{
                            "world_size": world_size,
                            "global_batch": global_batch,
                            "noise_seed": noise_seed,
                            "started_at": f"2026-01-01T00:{repeat:02d}:{world_size:02d}+00:00",
                            **more,
                        },
                    )
    plan = StudyPlan(
        command=["worldsize", "study", "config.yaml", "--nproc", ",".join(map(str, world_sizes))],
        scaling="weak" if scaling == "weak" else "strong",
        repeats=repeats,
        world_sizes=list(world_sizes),
        global_batches=list(global_batches),
        vary={key: list(values) for key, values in vary.items()},
        config=json.loads(Config().model_dump_json()),
    )
    (folder / "study.json").write_text(plan.model_dump_json(indent=1))
    return folder
