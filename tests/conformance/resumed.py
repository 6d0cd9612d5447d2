"""Trains on one rank or many with a checkpoint half-way, and goes on from it: what can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.conformance.steps import UnevenSamples, whole_weights
from worldsize.checkpoint_folder import checkpoints_in, damage
from worldsize.config.schema import Config
from worldsize.data.sampler import Sampler, digest
from worldsize.measure.clock import NullClock
from worldsize.models.build import build
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import batches_for, layout_for, strategy_name
from worldsize.parallel.registry import strategies
from worldsize.parallel.strategy import Strategy
from worldsize.train.checkpoint import Checkpoints
from worldsize.train.feed import Feed
from worldsize.train.precision import in_precision
from worldsize.train.resume import load_rng, load_state
from worldsize.train.run import seed_dropout

HALF = 5


def prepared(rank: int, world_size: int, config: Config) -> tuple[Strategy, Feed, RankContext]:
    layout = layout_for(config.parallel, world_size)
    context = RankContext(rank, world_size, rank, torch.device("cpu"), layout)
    seed_dropout(config.train.seed, context)
    model = in_precision(build(config.model, config.train.seed, context.device), config.train.precision)
    strategy = strategies()[strategy_name(config.parallel, world_size)]()
    strategy.prepare(model, config, context)
    data = UnevenSamples()
    feed = Feed(data, Sampler(data.num_samples, config.train.seed), batches_for(config.train, layout), context)  # type: ignore[arg-type]
    return strategy, feed, context


def steps(
    strategy: Strategy, feed: Feed, config: Config, context: RankContext, first: int, after_step: Any = None
) -> dict[str, Any]:
    """Train from step `first` on; return losses, digest of the samples, and what is left at the end."""
    losses, consumed = [], 0
    for step in range(first, config.train.steps):
        share = feed.share(step)
        output = strategy.step(share.micro_batches, config.optimizer.learning_rate, NullClock())
        losses.append(float(output.loss_sum) if context.counts else 0.0)
        consumed += digest(step, share.sample_ids) if context.counts else 0
        if after_step:
            after_step(step + 1)
    return {
        "losses": losses, "digest": consumed, "after": whole_weights(strategy),
        "scaler": strategy.state()["scaler"], "rng": torch.get_rng_state(),
    }  # fmt: skip


def train_with_checkpoint(rank: int, world_size: int, config: Config, run: Path) -> dict[str, Any]:
    """Train all steps undisturbed, with a checkpoint after step HALF that is written while training goes on."""
    strategy, feed, context = prepared(rank, world_size, config)
    checkpoints = Checkpoints(config, context, strategy, run, None)

    def after_step(done: int) -> None:
        if done == HALF:
            checkpoints.save(done, {}, None)

    trained = steps(strategy, feed, config, context, 0, after_step)
    checkpoints.wait()
    trained["losses"] = trained["losses"][HALF:]
    if context.counts:
        trained["digest"] -= sum(digest(step, feed.share(step).sample_ids) for step in range(HALF))
    return trained


def go_on(rank: int, world_size: int, config: Config, run: Path) -> dict[str, Any]:
    """Load the checkpoint into a strategy made anew and train the steps that are left."""
    strategy, feed, context = prepared(rank, world_size, config)
    (checkpoint,) = checkpoints_in(run)
    assert damage(checkpoint.path) is None
    assert checkpoint.step == HALF
    strategy.step(feed.share(checkpoint.step).micro_batches, 0.0, NullClock())  # settles DDP's buckets
    load_state(checkpoint, strategy, context)
    load_rng(checkpoint, context, config.train.seed)
    return steps(strategy, feed, config, context, checkpoint.step)
