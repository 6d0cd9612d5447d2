"""What parts of a model cost on this device: each timed forward and backward on a micro batch, before training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from worldsize.config.schema import Config
from worldsize.models.cost import PartCosts, describe
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import batches_for
from worldsize.train.loss import loss_sum
from worldsize.train.precision import Precision
from worldsize.train.stage import InParts

REPEATS = 3


def measured_costs(model: nn.Module, config: Config, context: RankContext) -> PartCosts:
    """Return seconds of embedding, first block (all are alike) and head with loss: the fastest of a few repeats.

    The whole model is still on this rank. Leaves weights, gradients and random numbers as they were.
    """
    parts, device = cast(InParts, model), context.device
    block = [model.get_submodule(describe(config.model).block_prefixes[0])]
    micro_batch = batches_for(config.train, context.layout).micro_batch
    precision = Precision(config.train.precision, device, config.model.context_length)
    tokens_BT = torch.zeros(micro_batch, config.model.context_length, dtype=torch.int64, device=device)
    is_encoder = config.model.kind == "encoder"
    segments_BT = torch.ones_like(tokens_BT) if is_encoder or config.data.packing else None
    targets = tokens_BT[:, 0] if is_encoder else tokens_BT
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), precision.forward():
        mask = parts.mask(segments_BT)
        x_BTC = parts.embed(tokens_BT, segments_BT).detach().requires_grad_()
        return PartCosts(
            before=_fastest_s(lambda: parts.embed(tokens_BT, segments_BT).sum(), [x_BTC], model, device),
            block=_fastest_s(lambda: parts.through(block, x_BTC, mask).sum(), [x_BTC], model, device),
            after=_fastest_s(lambda: loss_sum(parts.logits(x_BTC, segments_BT), targets), [x_BTC], model, device),
        )


def _fastest_s(
    forward: Callable[[], Tensor], inputs: Sequence[Tensor], model: nn.Module, device: torch.device
) -> float:
    seconds = []
    for _ in range(REPEATS + 1):  # the first warms up
        _synchronise(device)
        began_s = time.perf_counter()
        forward().backward()  # type: ignore[no-untyped-call]
        _synchronise(device)
        seconds.append(time.perf_counter() - began_s)
        for tensor in inputs:
            tensor.grad = None
        model.zero_grad(set_to_none=True)
    return min(seconds[1:])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
