"""What a step allocates on real ranks against what its parts add up to: sharding saves the memory that it promises."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from tests.conformance.steps import UnevenSamples, config_of
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.data.sampler import Sampler
from worldsize.measure.allocated import Allocated
from worldsize.measure.clock import NullClock
from worldsize.models.build import build
from worldsize.models.cost import describe
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import batches_for, layout_for
from worldsize.parallel.registry import strategies
from worldsize.train.feed import Feed

NUM_BLOCKS = 12
LEAN = "tests/conformance/nothing_stays_gathered.json"


def config_with(**parallel: Any) -> Config:
    """Return a model of 21 million parameters, beside which a step's activations are small, and no accumulation."""
    model = {"num_layers": NUM_BLOCKS, "d_model": 384, "d_ff": 1536}
    return config_of(model=model, parallel=parallel, train={"global_batch": 2, "micro_batch": 1})


def allocated_bytes(rank: int, world_size: int, config: Config) -> int | None:
    """Return the most that a step allocates, the third from the start on."""
    layout = layout_for(config.parallel, world_size)
    context = RankContext(rank, world_size, rank, torch.device("cpu"), layout)
    gc.collect()  # what earlier tests left in this process would be freed while we count
    allocated = Allocated(context.device)
    strategy = strategies()[config.parallel.strategy]()
    strategy.prepare(build(config.model, 0, "cpu"), config, context)
    data = UnevenSamples()
    feed = Feed(data, Sampler(data.num_samples, 0), batches_for(config.train, layout), context)

    def step() -> None:
        strategy.step(feed.share(0).micro_batches, 1e-3, NullClock())

    step()
    step()
    return allocated.most_in(step)


@pytest.fixture(scope="module")
def num_parameters() -> int:
    return describe(config_with().model).num_parameters


@pytest.fixture(scope="module")
def replicated_bytes(two_ranks: Ranks) -> int:
    """What ddp allocates."""
    return max(two_ranks.run(allocated_bytes, config_with(strategy="ddp")))


def test_a_replica_is_weights_gradients_and_two_moments(replicated_bytes: int, num_parameters: int) -> None:
    assert 16 * num_parameters < replicated_bytes < 17 * num_parameters  # activations, what the first step made


def test_blocks_gathered_ahead_are_there_together(two_ranks: Ranks, num_parameters: int) -> None:
    two_ranks.run(allocated_bytes, config_with(strategy="fsdp"))  # the first in a process sets up more
    one, six = (
        max(two_ranks.run(allocated_bytes, config_with(strategy="fsdp", prefetch_blocks=ahead))) for ahead in (1, 6)
    )
    assert 2 < (six - one) / (4 * num_parameters / NUM_BLOCKS) < 5


@pytest.mark.parametrize(
    ("parallel", "saved_per_parameter"),
    [
        ({"strategy": "fsdp"}, 16 / 2),
        ({"strategy": "fsdp", "zero_stage": 2}, 16 / 2 - 4 / 2),  # within the step, weights are whole
        # the engine updates weights of its own, beside those in use, and copies its part of the gradients for it
        ({"strategy": "deepspeed", "deepspeed_config": LEAN, "bucket_mib": 1}, 16 - (4 + 4 + 8 + 4 + 4) / 2),
        ({"strategy": "tensor"}, 16 / 2),
        ({"strategy": "pipeline"}, 16 / 2),
    ],
)
def test_a_part_of_a_replica_needs_so_much_less(
    parallel: dict[str, Any], saved_per_parameter: float, replicated_bytes: int, num_parameters: int, two_ranks: Ranks
) -> None:
    """Up to what a part needs besides: a few blocks gathered whole, gloo's copies, activations of more samples."""
    saved_bytes = replicated_bytes - max(two_ranks.run(allocated_bytes, config_with(**parallel)))
    block_bytes = 4 * num_parameters / NUM_BLOCKS
    assert saved_bytes == pytest.approx(saved_per_parameter * num_parameters, abs=4 * block_bytes)
