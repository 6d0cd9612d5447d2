"""Trains a few steps on one rank or many, on samples of uneven length, and returns what can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldsize.config.load import from_dict
from worldsize.config.schema import Config
from worldsize.data.batch import IGNORED_TARGET, Batch
from worldsize.measure.clock import clock_for
from worldsize.models.decoder import build
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import batches_for, layout_for, strategy_name
from worldsize.parallel.registry import strategies

NUM_STEPS = 10
LENGTH = 16
VOCABULARY = 64


def config_of(**overrides: dict[str, Any]) -> Config:
    """Return a tiny resolved config; sections in `overrides` win."""
    tree: dict[str, dict[str, Any]] = {
        "model": {
            "num_layers": 2, "d_model": 32, "num_heads": 4, "num_kv_heads": 4, "d_ff": 128,
            "vocab_size": VOCABULARY, "context_length": LENGTH,
        },
        "train": {"global_batch": 8, "steps": NUM_STEPS},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 0},
        "device": {"kind": "cpu"},
    }  # fmt: skip
    for section, values in overrides.items():
        tree.setdefault(section, {}).update(values)
    return from_dict(tree)


def samples_of(step: int, global_batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (tokens, targets) of a step: the same on every rank; each sample is padded from its own length on."""
    rng = np.random.default_rng(step)
    tokens = torch.from_numpy(rng.integers(0, VOCABULARY, (global_batch, LENGTH + 1)))
    targets = tokens[:, 1:].clone()
    for row, length in enumerate(rng.integers(2, LENGTH + 1, global_batch)):
        targets[row, length:] = IGNORED_TARGET
    return tokens[:, :-1], targets


def micro_batches_of(step: int, config: Config, context: RankContext) -> list[Batch]:
    """Return this rank's micro batches, all divided by the tokens of the whole step."""
    tokens, targets = samples_of(step, config.train.global_batch)
    total = int((targets != IGNORED_TARGET).sum())
    batches = batches_for(config.train, context.layout)
    first = context.data_rank * batches.per_device_batch
    cuts = range(first, first + batches.per_device_batch, batches.micro_batch)
    return [
        Batch(t, y, int((y != IGNORED_TARGET).sum()), total).to(context.device)
        for t, y in ((tokens[c : c + batches.micro_batch], targets[c : c + batches.micro_batch]) for c in cuts)
    ]


def train(rank: int, world_size: int, config: Config, device: str = "cpu") -> dict[str, Any]:
    """Run NUM_STEPS; return the weights before and after, each step's loss sum and gradient norm, and the phases."""
    layout = layout_for(config.parallel, world_size)
    context = RankContext(rank, world_size, rank, torch.device(device), layout)
    model = build(config.model, config.train.seed, context.device)
    strategy = strategies()[strategy_name(config.parallel, world_size)]()
    strategy.prepare(model, config, context)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    clock = clock_for(context.device)
    losses, norms, local_norms = [], [], []
    for step in range(config.train.steps):
        clock.start()
        output = strategy.step(micro_batches_of(step, config, context), config.optimizer.learning_rate, clock)
        clock.stop()
        losses.append(float(output.loss_sum))
        norms.append(None if output.grad_norm is None else float(output.grad_norm))
        local_norms.append(None if output.local_grad_norm is None else float(output.local_grad_norm))
    times = clock.window()
    after = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {
        "before": before,
        "after": after,
        "losses": losses,
        "norms": norms,
        "local_norms": local_norms,
        "times": times,
    }
