"""Trains a few steps on one rank or many, on samples of uneven length, and returns what can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from worldsize.config.load import from_dict
from worldsize.config.schema import Config
from worldsize.data.batch import IGNORED_TARGET, Batch
from worldsize.data.sampler import Sampler, digest
from worldsize.measure.clock import clock_for
from worldsize.measure.collectives import record
from worldsize.measure.trace import collectives_of, trace
from worldsize.models.build import build
from worldsize.models.cost import describe
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import Layout, batches_for, layout_for, strategy_name
from worldsize.parallel.local_sgd import period_of
from worldsize.parallel.pipeline import Pipeline
from worldsize.parallel.registry import strategies
from worldsize.parallel.strategy import Strategy
from worldsize.parallel.tensor import TensorParallel
from worldsize.records import CollectiveCount
from worldsize.train.checksum import weights_checksum
from worldsize.train.feed import Feed
from worldsize.train.precision import in_precision
from worldsize.train.replica import whole
from worldsize.train.run import TELLING_TRACES, seed_dropout

NUM_STEPS = 10
LENGTH = 16
VOCABULARY = 64
NUM_CLASSES = 4


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


class UnevenSamples:
    """Random samples, each padded from its own length on; sample i is the same wherever it is built."""

    num_samples = 64
    text_lengths = None

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one sample's (tokens, targets)."""
        rng = np.random.default_rng(int(index))
        tokens = rng.integers(0, VOCABULARY, LENGTH + 1)
        targets = tokens[1:].copy()
        targets[rng.integers(2, LENGTH + 1) :] = IGNORED_TARGET
        return tokens[:-1], targets

    def num_target_tokens(self, ids: np.ndarray) -> int:
        return sum(int((self.sample(i)[1] != IGNORED_TARGET).sum()) for i in ids)

    def batch(self, ids: np.ndarray, global_target_tokens: int, step: int | None = None) -> Batch:
        tokens, targets = (torch.from_numpy(np.stack(part)) for part in zip(*map(self.sample, ids), strict=True))
        return Batch(tokens, targets, self.num_target_tokens(ids), global_target_tokens)


class UnevenTexts(UnevenSamples):
    """Texts of uneven length with a class each; everything else is padding."""

    def num_target_tokens(self, ids: np.ndarray) -> int:
        return len(ids)

    def batch(self, ids: np.ndarray, global_target_tokens: int, step: int | None = None) -> Batch:
        tokens, targets = (torch.from_numpy(np.stack(part)) for part in zip(*map(self.sample, ids), strict=True))
        segments = (targets != IGNORED_TARGET).long()
        classes = torch.from_numpy(ids % NUM_CLASSES)
        return Batch(tokens, classes, len(ids), global_target_tokens, segments, int(segments.sum()))


class UnevenPairs(UnevenSamples):
    """Two texts in each sample, of uneven length, that must not see each other, and padding behind them."""

    def batch(self, ids: np.ndarray, global_target_tokens: int, step: int | None = None) -> Batch:
        batch = super().batch(ids, global_target_tokens)
        lengths = (batch.targets_BT != IGNORED_TARGET).sum(1, keepdim=True)
        positions = torch.arange(LENGTH)
        batch.segments_BT = torch.where(positions < lengths, 1 + (positions > lengths // 2).long(), 0)
        return batch


def samples_for(config: Config) -> UnevenSamples:
    """Return the samples of the config's task."""
    kinds = {"classification": UnevenTexts, "translation": UnevenPairs, "language_modelling": UnevenSamples}
    return kinds[config.data.task]()


def samples_of(step: int, global_batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all ranks' (tokens, targets) of a step under seed 0."""
    data = UnevenSamples()
    batch = data.batch(Sampler(data.num_samples, 0).sample_ids(step, global_batch), 1)
    return batch.tokens_BT, batch.targets_BT


def train(
    rank: int, world_size: int, config: Config, device: str = "cpu", *, observe: bool = False, exchange: bool = True
) -> dict[str, Any]:
    """Run the config's steps; return all that the conformance suite compares.

    `observe` adds the collectives of one more step, which the weights returned here do not show. Without `exchange` the
    steps leave theirs out.
    """
    layout = layout_for(config.parallel, world_size)
    context = RankContext(rank, world_size, rank, torch.device(device), layout)
    seed_dropout(config.train.seed, context)
    model = in_precision(build(config.model, config.train.seed, context.device), config.train.precision)
    strategy = strategies()[strategy_name(config.parallel, world_size)]()
    strategy.prepare(model, config, context)
    data = samples_for(config)
    feed = Feed(data, Sampler(data.num_samples, config.train.seed), batches_for(config.train, layout), context)
    before = whole_weights(strategy)
    clock = clock_for(context.device)
    losses, norms, local_norms, consumed, gradients = [], [], [], 0, {}
    for step in range(config.train.steps):
        clock.start()
        share = feed.share(step).to(context.device)
        output = strategy.step(share.micro_batches, config.optimizer.learning_rate, clock, exchange=exchange)
        clock.stop()
        gradients = gradients or first_gradients(strategy, config)
        consumed += digest(step, share.sample_ids) if context.counts else 0
        losses.append(float(output.loss_sum) if context.counts else 0.0)
        norms.append(None if output.grad_norm is None else float(output.grad_norm))
        local_norms.append(None if output.local_grad_norm is None else float(output.local_grad_norm))
    held_out = data.batch(np.arange(8), 1).to(context.device)
    evaluated = float(strategy.evaluate(held_out))
    return {
        "before": before,
        "after": whole_weights(strategy),
        "checksum": weights_checksum(strategy.full_parameters()),
        "losses": losses,
        "gradients": gradients,
        "norms": norms,
        "local_norms": local_norms,
        "times": clock.window(),
        "digest": consumed,
        "state_names": names_of(strategy.state()),
        "held_bytes": strategy.held_bytes(),
        "evaluated": evaluated if context.counts else None,
        "logits": strategy.logits(held_out) if isinstance(data, UnevenTexts) else None,
        "predicted": predicted(strategy, config, layout, rank),
        "observed": observed(strategy, feed, context, config) if observe else None,
    }


def predicted(strategy: Strategy, config: Config, layout: Layout, rank: int) -> list[CollectiveCount]:
    """Return what one rank is to issue in a step; only where the model is cut ranks differ."""
    model = describe(config.model)
    if isinstance(strategy, Pipeline | TensorParallel):
        return strategy.communication(config, layout, model, rank)
    return strategy.communication(config, layout, model)


def whole_weights(strategy: Strategy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in strategy.full_parameters()}


def first_gradients(strategy: Strategy, config: Config) -> dict[str, torch.Tensor]:
    """Return, after the first step, the gradients that the optimizer was given: clipped, whole, of this rank's tensors.

    AdamW's running mean is then (1 - beta1) × the gradient, whatever the strategy keeps the gradient itself in.
    """
    state = strategy.state()
    if "ranks" in state:  # local steps: each rank's own
        (state,) = state["ranks"].values()
    by_name = state["optimizer"]["state"]
    return {name: whole(each["exp_avg"]).clone() / (1 - config.optimizer.beta1) for name, each in by_name.items()}


def names_of(tree: Any, path: str = "") -> set[str]:
    """Return the dotted names of everything in nested mappings."""
    if not isinstance(tree, dict):
        return {path}
    return set().union(*(names_of(value, f"{path}/{name}") for name, value in tree.items())) if tree else {path}


def observed(strategy: Strategy, feed: Feed, context: RankContext, config: Config) -> list[CollectiveCount]:
    """Return what one step issues: by the trace where it tells all, as a run does, else by the dispatcher."""

    def step() -> None:
        strategy.step(feed.share(0).to(context.device).micro_batches, 0.0, clock_for(context.device))

    if config.parallel.strategy not in TELLING_TRACES:
        return record(step, context.layout, period=period_of(config))
    events = trace(step, dist.barrier, num_steps=1, device=context.device)
    return collectives_of(events, {context.world_size: "dp"})
