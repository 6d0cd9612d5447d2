"""What the ranks of a pipeline send each other in one step, from configuration alone. Torch-free."""

from __future__ import annotations

import math
from collections import Counter

from worldsize.config.schema import Config
from worldsize.models.cost import FP32_BYTES, ModelDescription, kept_bytes
from worldsize.parallel.layout import Layout, batches_for
from worldsize.parallel.stages import TIED, Stages, stages_for
from worldsize.parallel.tensor_bytes import Totals, activations_of, held_by_a_tp_rank, sharded_on_tp
from worldsize.records import CollectiveCount


def communication(config: Config, layout: Layout, model: ModelDescription, rank: int) -> list[CollectiveCount]:
    """Return one rank's collectives in one optimizer step."""
    stages = stages_for(config, layout)
    place = layout.coordinates(rank)
    pp_rank = place["pp"]
    held = held_by_a_tp_rank(model, layout.tp, place["tp"]) if layout.tp > 1 else model
    totals = messages(config, layout, stages, pp_rank)
    totals += gradients(config, layout, stages, held, pp_rank)
    if layout.tp > 1:
        totals += along_tp(config, layout, stages, held, pp_rank)
    return [
        CollectiveCount(kind=kind, group=group, group_size=size, payload_bytes=payload_bytes)
        for (kind, group, size), payload_bytes in sorted(totals.items())
        if payload_bytes
    ]


def messages(config: Config, layout: Layout, stages: Stages, pp_rank: int) -> Totals:
    """Return what a rank sends and receives: activations one way, their gradients the other; padded batches whole."""
    batches = batches_for(config.train, layout)
    wide_bytes = kept_bytes(config.train.precision)
    tokens = batches.micro_batch * config.model.context_length // layout.tp
    activation_bytes = tokens * config.model.d_model * wide_bytes
    last = stages.num_stages - 1
    neighbours = [each for stage in stages.stages_of(pp_rank) for each in (stage - 1, stage + 1)]
    crossings = sum(0 <= each <= last and stages.rank_of(each) != pp_rank for each in neighbours)
    # Towards each neighbour on another rank one message a micro batch, and one back.
    totals: Totals = Counter(
        {(kind, "pp", layout.pp): crossings * batches.accumulation * activation_bytes for kind in ("send", "recv")}
    )
    holder, reporter = stages.rank_of(last), stages.num_ranks - 1
    if holder != reporter:  # in a V the loss is handed on
        totals["send", "pp", layout.pp] += wide_bytes * (pp_rank == holder)
        totals["recv", "pp", layout.pp] += wide_bytes * (pp_rank == reporter)
    return totals


def gradients(config: Config, layout: Layout, stages: Stages, held: ModelDescription, pp_rank: int) -> Totals:
    """Return what is summed at the end of a step: a tied head's two gradients, replicas' gradients, the norm."""
    wide_bytes = kept_bytes(config.train.precision)
    totals: Totals = Counter()
    if held.tied_head and stages.ends_apart and pp_rank in (stages.rank_of(0), stages.rank_of(stages.num_stages - 1)):
        totals["all_reduce", "pp", 2] += math.prod(held.parameter_shapes[TIED]) * wide_bytes
    if config.train.grad_clip_norm is not None:
        totals["all_reduce", "pp", layout.pp] += wide_bytes
    if config.train.precision == "fp16":  # whether any stage's gradient overflowed
        totals["all_reduce", "pp", layout.pp] += FP32_BYTES
    if layout.dp > 1:
        names = stages.names_of(pp_rank, held)
        own = sum(math.prod(held.parameter_shapes[name]) for name in names)
        totals["all_reduce", "dp", layout.dp] += own * wide_bytes
    return totals


def along_tp(config: Config, layout: Layout, stages: Stages, held: ModelDescription, pp_rank: int) -> Totals:
    """Return what the ranks that share this rank's stages exchange: activations, gradients held whole, the norm."""
    wide_bytes = kept_bytes(config.train.precision)
    batches = batches_for(config.train, layout)
    num_tokens = batches.accumulation * batches.micro_batch * config.model.context_length
    own = stages.stages_of(pp_rank)
    totals = activations_of(
        config,
        layout,
        held,
        num_tokens,
        sum(stages.num_blocks[stage] for stage in own),
        starts=0 in own,
        ends=stages.num_stages - 1 in own,
    )
    sharded = sharded_on_tp(held)
    names = stages.names_of(pp_rank, held)
    whole = sum(math.prod(held.parameter_shapes[name]) for name in names if name not in sharded)
    clips = config.train.grad_clip_norm is not None
    totals["all_reduce", "tp", layout.tp] += (whole + clips) * wide_bytes
    if config.train.precision == "fp16":  # as in `gradients`, of the ranks that share a stage
        totals["all_reduce", "tp", layout.tp] += FP32_BYTES
    return totals
