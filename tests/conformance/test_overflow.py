"""fp16's gradients overflow on one rank alone: all that share the model leave the step out, as one device does.

The overflow is put where only rank 0 sees it: into its shard, its stage or its replica of the gradient, just before the
update; under DeepSpeed, whose update is its own, into what flows back through rank 0's first block.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.resumed import prepared
from tests.conformance.steps import config_of, whole_weights
from tests.conformance.test_strategies import distance
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.measure.clock import NullClock
from worldsize.parallel.gradient_buckets import own_part

OVERFLOWS_AT = 1
ALL = {
    "fsdp": (2, {"strategy": "fsdp"}),
    "tensor": (2, {"strategy": "tensor"}),
    "pipeline": (2, {"strategy": "pipeline"}),
    "deepspeed, ZeRO-0": (2, {"strategy": "deepspeed", "zero_stage": 0}),
    "deepspeed, ZeRO-2": (2, {"strategy": "deepspeed", "zero_stage": 2}),
    "deepspeed, ZeRO-3": (2, {"strategy": "deepspeed", "zero_stage": 3}),
    "fsdp×tp": (4, {"strategy": "tensor", "fsdp": 2, "tp": 2}),
    "tp×pp": (4, {"strategy": "pipeline", "tp": 2}),
}
"""World size and section `parallel`, one row for each way in which ranks come to know."""


def config_for(parallel: dict[str, Any], **train: Any) -> Config:
    """Untied, so that a tied head's sum does not take the overflow from the first stage to the last."""
    settings = {"precision": "fp16", "steps": 3, "micro_batch": 2, **train}
    return config_of(model={"tied_head": False}, parallel=parallel, train=settings)


def overflow_once(strategy: Any, config: Config) -> None:
    """Have this rank's gradient overflow in the next step."""
    replica = strategy.replica
    if config.parallel.strategy == "deepspeed":

        def hooked(module: Any, inputs: Any, output: Tensor) -> None:
            handle.remove()
            output.register_hook(lambda gradient: gradient * torch.inf)

        handle = replica.model.blocks[0].register_forward_hook(hooked)
        return
    update = replica.update

    def overflowing(learning_rate: float) -> Tensor | None:
        replica.update = update
        own_part(next(replica.model.parameters()).grad).fill_(torch.inf)
        norm: Tensor | None = update(learning_rate)
        return norm

    replica.update = overflowing


def train(rank: int, world_size: int, config: Config) -> dict[str, Any]:
    """Train three steps, the second with an overflow on rank 0; return what each left."""
    strategy, feed, context = prepared(rank, world_size, config)
    weights, scalers, losses = [], [], []
    for step in range(config.train.steps):
        if step == OVERFLOWS_AT and rank == 0:
            overflow_once(strategy, config)
        share = feed.share(step).to(context.device)
        output = strategy.step(share.micro_batches, config.optimizer.learning_rate, NullClock())
        losses.append(float(output.loss_sum) if context.counts else 0.0)
        weights.append(whole_weights(strategy))
        scalers.append(strategy.replica.precision.scaler.state_dict())  # type: ignore[attr-defined]
    return {"weights": weights, "scalers": scalers, "losses": losses}


@pytest.mark.parametrize(("name", "clip"), [*((name, 1.0) for name in ALL), ("fsdp", None), ("pipeline", None)])
def test_all_ranks_leave_the_step_out(name: str, clip: float | None, request: pytest.FixtureRequest) -> None:
    world_size, parallel = ALL[name]
    ranks: Ranks = request.getfixturevalue("two_ranks" if world_size == 2 else "four_ranks")
    config = config_for(parallel, grad_clip_norm=clip)
    single = train(0, 1, config_for({"strategy": "single"}, grad_clip_norm=clip))
    found = ranks.run(train, config)
    for one in found:
        before, skipped, after = one["weights"]
        assert all(torch.equal(skipped[tensor], before[tensor]) for tensor in before)
        assert distance(after, skipped) > 0
        assert one["scalers"] == single["scalers"]
    scales = [scaler["scale"] for scaler in single["scalers"]]
    assert scales[1] == scales[2] == scales[0] / 2
    last = single["weights"][2]
    assert distance(found[0]["weights"][2], last) < 0.1 * distance(single["weights"][1], last)
    sums = [sum(losses) for losses in zip(*(one["losses"] for one in found), strict=True)]
    assert sums == pytest.approx(single["losses"], rel=1e-4)


def test_in_local_steps_the_others_go_on(two_ranks: Ranks) -> None:
    overflowed, other = two_ranks.run(train, config_for({"strategy": "local_sgd", "local_steps": 3}))
    for one, skips in ((overflowed, True), (other, False)):
        before, after, averaged = one["weights"]
        assert (distance(after, before) == 0) == skips
        scales = [scaler["scale"] for scaler in one["scalers"]]
        assert scales[1] == scales[2] == scales[0] / (2 if skips else 1)
        assert distance(averaged, overflowed["weights"][2]) == 0
        assert all(tensor.isfinite().all() for tensor in averaged.values())
