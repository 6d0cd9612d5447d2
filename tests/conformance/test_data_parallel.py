"""What data parallelism alone has: a gradient of each rank's own samples."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from tests.conformance.steps import config_of, samples_of, train
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.data.batch import IGNORED_TARGET
from worldsize.models.build import build
from worldsize.train.loss import loss_sum


@pytest.mark.parametrize("strategy", ["allreduce", "ddp"])
@pytest.mark.parametrize("micro_batch", [4, 1])
def test_local_gradient_norms_are_those_of_each_ranks_own_samples(
    micro_batch: int, strategy: str, two_ranks: Ranks
) -> None:
    config = config_of(train={"micro_batch": micro_batch, "steps": 1}, parallel={"strategy": strategy})
    found = [one["local_norms"][0] for one in two_ranks.run(train, config)]
    for rank, norm in enumerate(found):
        assert norm == pytest.approx(own_gradient_norm(config, rank), rel=1e-4)


@pytest.mark.parametrize(
    "parallel",
    [
        {"strategy": "allreduce"}, {"strategy": "ddp"}, {"strategy": "ddp", "gradient_compression": "int4"},
        {"strategy": "local_sgd", "local_steps": 2},
    ],
)  # fmt: skip
def test_books_close_with_communication_switched_off(parallel: dict[str, Any], two_ranks: Ranks) -> None:
    config = config_of(train={"micro_batch": 2, "steps": 4}, parallel=parallel)
    found = two_ranks.run(functools.partial(train, exchange=False), config)
    for one in found:
        for step in one["times"]:
            assert step.phases_s["exposed_communication_s"] == 0.0
            assert sum(step.phases_s.values()) == pytest.approx(step.wall_s, rel=1e-9)
            assert min(step.phases_s.values()) >= -1e-9
    assert found[0]["checksum"] != found[1]["checksum"], "each rank trains on its own samples alone"


def own_gradient_norm(config: Config, rank: int) -> float:
    """Return the norm of 2 × the gradient of a rank's loss sum over the global count of tokens, by plain autograd."""
    tokens, targets = samples_of(0, config.train.global_batch)
    model = build(config.model, config.train.seed, "cpu")
    mine = slice(4 * rank, 4 * rank + 4)
    loss = loss_sum(model(tokens[mine]), targets[mine]) / int((targets != IGNORED_TARGET).sum())
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return 2 * float(torch.cat([g.flatten() for g in gradients]).norm())
