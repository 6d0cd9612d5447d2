"""What tensor parallelism asks of a model, and the collectives of a step, from configuration alone. Torch-free."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from worldsize.config.schema import Config
from worldsize.models.cost import BF16_BYTES, FP32_BYTES, ModelDescription, kept_bytes
from worldsize.parallel.fsdp import FullyShardedDataParallel, padded_numel
from worldsize.parallel.layout import Layout, batches_for
from worldsize.records import CollectiveCount

Totals = Counter[tuple[str, str, int]]
"""Payload bytes by kind, group and group size."""


def part_of(length: int, rank: int, num_ranks: int) -> slice:
    """Return the part of `length` rows, columns or positions that a rank holds: where they do not divide, the last
    rank's is smaller."""
    part = -(-length // num_ranks)
    return slice(rank * part, min((rank + 1) * part, length))


def undivided(config: Config, tp: int, fsdp: int = 1) -> list[str]:
    """Return what of the model tp ranks cannot share evenly, with the nearest degrees that can share all of it.

    A vocabulary may be uneven, unless fsdp shards the parts again: published models have odd ones.
    """
    model = config.model
    shared = {
        "model.num_heads": model.num_heads,
        "model.num_kv_heads": model.num_kv_heads or model.num_heads,
        "model.d_ff": model.d_ff,
        "model.context_length": model.context_length,
    }
    if fsdp > 1 or (model.vocab_size is not None and model.vocab_size < tp**2):  # a last rank might hold no row
        shared["model.vocab_size"] = model.vocab_size
    known = {name: value for name, value in shared.items() if value is not None}
    odd = [f"{name}={value}" for name, value in known.items() if value % tp]
    if not odd:
        return []
    common = math.gcd(*known.values())
    fitting = [degree for degree in range(2, common + 1) if common % degree == 0]
    nearest = sorted(sorted(fitting, key=lambda degree: abs(degree - tp))[:2])
    instead = f"use parallel.tp={' or '.join(map(str, nearest))}"
    if not nearest:
        instead = "no other degree divides this model, so use parallel.strategy=fsdp"
    return [f"parallel.tp={tp} does not divide {', '.join(odd)}; {instead}, or change the model"]


def sharded_on_tp(model: ModelDescription) -> set[str]:
    """Return the parameters of which each tp rank holds a part."""
    names = set()
    for name in model.parameter_shapes:
        module, _, kind = name.rpartition(".")
        within = model.within_block(module)
        if (
            within in model.column_parallel
            or (within in model.row_parallel and kind == "weight")
            or module in (model.token_embedding, model.head)
        ):
            names.add(name)
    return names


def held_by_a_tp_rank(model: ModelDescription, tp: int, tp_rank: int = 0) -> ModelDescription:
    """Return the description with the shapes that one tp rank holds; they differ where a vocabulary is uneven."""
    sharded = sharded_on_tp(model)
    shapes = {}
    for name, shape in model.parameter_shapes.items():
        by_column = model.within_block(name.rpartition(".")[0]) in model.row_parallel
        if name in sharded:
            rows = part_of(shape[0], tp_rank, tp)
            shape = (shape[0], shape[1] // tp) if by_column else (rows.stop - rows.start, *shape[1:])
        shapes[name] = shape
    return replace(model, parameter_shapes=shapes)


def communication(config: Config, layout: Layout, model: ModelDescription, rank: int) -> list[CollectiveCount]:
    """Return the collectives of one optimizer step on one rank."""
    held = held_by_a_tp_rank(model, layout.tp, layout.coordinates(rank)["tp"])
    totals = activations(config, layout, model) + gradients(config, layout, held)
    return [
        CollectiveCount(kind=kind, group=group, group_size=size, payload_bytes=payload_bytes)
        for (kind, group, size), payload_bytes in sorted(totals.items())
    ]


def activations(config: Config, layout: Layout, model: ModelDescription) -> Totals:
    """Return what forward and backward pass along tp, for all micro batches of a step."""
    num_tokens = batches_for(config.train, layout).per_device_batch * config.model.context_length
    return activations_of(config, layout, model, num_tokens, model.num_layers, starts=True, ends=True)


def activations_of(
    config: Config,
    layout: Layout,
    model: ModelDescription,
    num_tokens: int,
    num_blocks: int,
    *,
    starts: bool,
    ends: bool,
) -> Totals:
    """Return the same of a part of the model: some blocks, the embedding (`starts`), the head and the loss (`ends`).

    Of each block forward gathers the sequence twice and sums twice, and backward does the same the other way round.
    Recomputed blocks gather again what their two sums' products need; the second sum only if dropout follows it.
    """
    train, tp = config.train, layout.tp
    width = model.parameter_shapes[f"{model.token_embedding}.weight"][1]
    wide_bytes = kept_bytes(config.train.precision)
    narrow_bytes = BF16_BYTES if train.precision in ("bf16", "fp16") else wide_bytes
    # fully_shard hands out weights in two bytes, so that what is looked up has as many.
    embedded_bytes = narrow_bytes if layout.fsdp > 1 else wide_bytes
    num_gathers, num_sums = 4, 4
    if train.activation_checkpointing == "block":
        num_gathers, num_sums = 6, 6 if config.model.dropout else 5
    in_blocks = num_blocks * num_tokens * width * narrow_bytes
    at_ends = num_tokens * width * (embedded_bytes * starts + narrow_bytes * ends)
    totals: Totals = Counter()
    totals["all_gather", "tp", tp] = (num_gathers * in_blocks + at_ends) // tp
    totals["reduce_scatter", "tp", tp] = num_sums * in_blocks + at_ends
    # Of each token: its largest logit, then its sum of exponentials and its target's logit. Classes are no columns.
    num_loss_rows = 0 if model.classifier else 3 * ends
    totals["all_reduce", "tp", tp] = num_loss_rows * num_tokens * wide_bytes
    return totals


def gradients(config: Config, layout: Layout, held: ModelDescription) -> Totals:
    """Return what the end of a step exchanges: over the data axis, over tp of what its ranks hold whole, to clip."""
    wide_bytes = kept_bytes(config.train.precision)
    sharded = sharded_on_tp(held)
    whole = [shape for name, shape in held.parameter_shapes.items() if name not in sharded]
    told_bytes = 0 if config.train.grad_clip_norm is None else wide_bytes  # the squared norm
    if config.train.precision == "fp16":  # the loss scaler's word on whether any rank's gradient overflowed
        told_bytes += FP32_BYTES
    totals: Totals = Counter()
    own_part = padded_numel(whole, layout.fsdp) // layout.fsdp
    totals["all_reduce", "tp", layout.tp] = own_part * wide_bytes + told_bytes
    if layout.dp > 1:
        totals["all_reduce", "dp", layout.dp] = held.num_parameters * wide_bytes
    if layout.fsdp > 1:
        for count in FullyShardedDataParallel.communication(config, layout, held):
            if count.kind != "all_reduce":  # its clipping's, of which ours has one number
                totals[count.kind, count.group, count.group_size] = count.payload_bytes
        if told_bytes:
            totals["all_reduce", "fsdp", layout.fsdp] = told_bytes
    return totals
