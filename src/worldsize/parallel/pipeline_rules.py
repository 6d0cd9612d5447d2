"""What a pipeline cannot do, in words, with what to type instead. Torch-free."""

from __future__ import annotations

from worldsize.config.schema import Config
from worldsize.errors import UserError
from worldsize.parallel.layout import Layout, batches_for
from worldsize.parallel.stages import stages_per_rank
from worldsize.parallel.tensor_bytes import undivided


def reasons_against(strategy: str, config: Config, layout: Layout) -> list[str]:
    """Return why a layout cannot run as a pipeline, each with the nearest legal choice; none where it can."""
    return [
        *_axes(strategy, layout),
        *_stages(strategy, config, layout),
        *_micro_batches(strategy, config, layout),
        *_arithmetic(strategy, config),
        *undivided(config, layout.tp),
    ]


def _axes(strategy: str, layout: Layout) -> list[str]:
    reasons = []
    if layout.fsdp > 1:
        reasons.append(
            f"strategy {strategy!r} spreads by pp, dp and tp, but parallel.fsdp={layout.fsdp}; use parallel.fsdp=1"
        )
    if layout.world_size == 1:
        reasons.append(f"strategy {strategy!r} needs at least 2 devices; use parallel.strategy=single or --nproc 2")
    elif layout.pp == 1:
        reasons.append(
            f"strategy {strategy!r} passes parallel.pp=1 stage; leave parallel.pp and parallel.dp unset for a stage on "
            f"each of {layout.world_size} devices, or use parallel.strategy=ddp for replicas alone"
        )
    return reasons


def _stages(strategy: str, config: Config, layout: Layout) -> list[str]:
    parallel, num_layers = config.parallel, config.model.num_layers
    a_rank = stages_per_rank(parallel)
    schedule = parallel.pipeline_schedule if strategy == "pipeline" else strategy
    reasons = []
    if schedule == "zero_bubble_v" and a_rank != 2:
        reasons.append(
            f"parallel.pipeline_schedule=zero_bubble_v has 2 stages a rank, not parallel.stages_per_rank={a_rank}; "
            "leave it unset"
        )
    if schedule in ("gpipe", "1f1b", "model_parallel") and a_rank != 1:
        reasons.append(
            f"{schedule} has 1 stage a rank, not parallel.stages_per_rank={a_rank}; leave it unset, or use "
            "parallel.pipeline_schedule=interleaved"
        )
    num_stages = layout.pp * a_rank
    if num_stages > num_layers:
        most = num_layers // a_rank
        fewer = f"parallel.pp={most}" if most > 1 else "a schedule with 1 stage a rank"
        reasons.append(
            f"{layout.pp} ranks × {a_rank} stages = {num_stages} stages, but the model has {num_layers} blocks, and a "
            f"stage needs one at least; use {fewer}, or model.num_layers={num_stages}"
        )
    layers = parallel.stage_layers
    if layers is not None and (len(layers) != num_stages or sum(layers) != num_layers or min(layers) < 1):
        even = [num_layers // num_stages + (index < num_layers % num_stages) for index in range(num_stages)]
        reasons.append(
            f"parallel.stage_layers={list(layers)} must name {num_stages} stages of 1 block or more that sum to "
            f"model.num_layers={num_layers}, such as {even}; or leave it unset"
        )
    return reasons


def _micro_batches(strategy: str, config: Config, layout: Layout) -> list[str]:
    if strategy != "pipeline" or layout.pp == 1:
        return []
    try:
        batches = batches_for(config.train, layout)
    except UserError:
        return []  # said by a rule of its own
    schedule, num = config.parallel.pipeline_schedule, batches.accumulation
    if schedule_takes(schedule, num, layout.pp):
        return []
    per_device = batches.per_device_batch
    sizes = [
        size
        for size in range(1, per_device + 1)
        if per_device % size == 0 and schedule_takes(schedule, per_device // size, layout.pp)
    ]
    nearest = min(sizes, key=lambda size: abs(size - batches.micro_batch), default=None)
    instead = (
        f"train.micro_batch={nearest}" if nearest else f"train.global_batch={2 * layout.pp * layout.num_data_ranks}"
    )
    wants = (
        f"at least as many as stages, {layout.pp}"
        if schedule == "1f1b"
        else f"a multiple of its rounds, {num // layout.pp} of {layout.pp} or a few more"
    )
    return [
        f"parallel.pipeline_schedule={schedule} on {layout.pp} ranks wants micro batches {wants}, and the per-device "
        f"batch of {per_device} makes {num} of train.micro_batch={batches.micro_batch}; use {instead}, or "
        "parallel.pipeline_schedule=gpipe"
    ]


def schedule_takes(schedule: str, num_micro_batches: int, num_ranks: int) -> bool:
    """Return whether the engine's schedule can carry out so many micro batches."""
    if schedule == "1f1b":
        return num_micro_batches >= num_ranks
    if schedule in ("interleaved", "zero_bubble"):
        return num_micro_batches % max(1, num_micro_batches // num_ranks) == 0
    return True


def _arithmetic(strategy: str, config: Config) -> list[str]:
    if not config.train.compile:
        return []
    return [f"strategy {strategy!r} runs uncompiled; use train.compile=false, or parallel.strategy=ddp"]
