"""Data parallelism equals one device: weights at step 0, losses, gradient norms, weights after ten steps."""

from __future__ import annotations

import pytest
import torch

from tests.conformance.steps import config_of, samples_of, train
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.data.batch import IGNORED_TARGET
from worldsize.models.decoder import build
from worldsize.train.loss import loss_sum

CONFIGS = {
    "plain": config_of(),
    "accumulated": config_of(train={"micro_batch": 1}),
    "llama-shaped": config_of(
        model={"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "num_kv_heads": 2, "bias": False,
               "tied_head": False, "d_ff": 96},
    ),
    "unclipped": config_of(train={"grad_clip_norm": None}),
    "small buckets": config_of(parallel={"bucket_mib": 0.01}),
}  # fmt: skip


@pytest.fixture(params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> Ranks:
    found: Ranks = request.getfixturevalue("two_ranks" if request.param == 2 else "four_ranks")
    return found


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_ddp_equals_one_device(config: Config, ranks: Ranks) -> None:
    alone = train(0, 1, config)
    together = ranks.run(train, config)
    for one in together:
        for name, weight in alone["before"].items():
            assert torch.equal(one["before"][name], weight), name
        for name, weight in together[0]["after"].items():
            assert torch.equal(one["after"][name], weight), f"replicas differ in {name}"
    for step in range(config.train.steps):
        total = sum(one["losses"][step] for one in together)
        assert total == pytest.approx(alone["losses"][step], rel=1e-5), f"step {step}"
        if config.train.grad_clip_norm is not None:
            assert together[0]["norms"][step] == pytest.approx(alone["norms"][step], rel=1e-4), f"step {step}"
    for name, weight in alone["after"].items():
        # Adam divides by the root of the squared gradient, which magnifies rounding where a gradient is near zero.
        torch.testing.assert_close(
            together[0]["after"][name], weight, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("config", [CONFIGS["plain"], CONFIGS["accumulated"]])
def test_books_close_and_one_device_communicates_nothing(config: Config, two_ranks: Ranks) -> None:
    alone = train(0, 1, config)
    assert all(step.phases_s["exposed_communication_s"] == 0.0 for step in alone["times"])
    for one in two_ranks.run(train, config):
        assert any(step.phases_s["exposed_communication_s"] > 0.0 for step in one["times"])
        for step in one["times"]:
            assert sum(step.phases_s.values()) == pytest.approx(step.wall_s, rel=1e-9)
            assert step.phases_s["compute_s"] > 0


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_local_gradient_norms_are_those_of_each_ranks_own_samples(micro_batch: int, two_ranks: Ranks) -> None:
    config = config_of(train={"micro_batch": micro_batch, "steps": 1})
    found = [one["local_norms"][0] for one in two_ranks.run(train, config)]
    for rank, norm in enumerate(found):
        assert norm == pytest.approx(own_gradient_norm(config, rank), rel=1e-4)


def own_gradient_norm(config: Config, rank: int) -> float:
    """Return the norm of 2 × the gradient of a rank's loss sum over the global count of tokens, by plain autograd."""
    tokens, targets = samples_of(0, config.train.global_batch)
    model = build(config.model, config.train.seed, "cpu")
    mine = slice(4 * rank, 4 * rank + 4)
    loss = loss_sum(model(tokens[mine]), targets[mine]) / int((targets != IGNORED_TARGET).sum())
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return 2 * float(torch.cat([g.flatten() for g in gradients]).norm())
