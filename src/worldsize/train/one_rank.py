"""Training steps of a config on this process alone, for whoever wants to look at them closely."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch

from worldsize.config.schema import Config
from worldsize.data.sampler import Sampler
from worldsize.data.task import TaskData
from worldsize.measure.clock import NullClock
from worldsize.models.build import build
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import Layout, batches_for
from worldsize.parallel.registry import strategies
from worldsize.train.feed import Feed
from worldsize.train.precision import in_precision
from worldsize.train.process_group import pick_device


def training_step(config: Config, data: TaskData) -> tuple[Callable[[], object], torch.device]:
    """Return what runs the next training step of a resolved config on one device, and the device."""
    layout = Layout()
    context = RankContext(0, 1, 0, pick_device(config.device, 0), layout)
    torch.set_num_threads(config.device.threads_per_rank)
    samples = data.samples(config, "train")
    feed = Feed(samples, Sampler(samples.num_samples, config.train.seed), batches_for(config.train, layout), context)
    model = in_precision(build(config.model, config.train.seed, context.device), config.train.precision)
    strategy = strategies()["single"]()
    strategy.prepare(model, config, context)
    steps = count()

    def run_step() -> object:
        share = feed.share(next(steps)).to(context.device)
        return strategy.step(share.micro_batches, config.optimizer.learning_rate, NullClock())

    return run_step, context.device
