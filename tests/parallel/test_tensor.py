"""The parts of tensor parallelism, each against one device's arithmetic or worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from tests.conformance.steps import UnevenSamples, config_of
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.data.batch import IGNORED_TARGET
from worldsize.data.sampler import Sampler
from worldsize.measure.clock import NullClock
from worldsize.models.build import build
from worldsize.models.cost import describe
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import batches_for, layout_for
from worldsize.parallel.tensor import TensorParallel
from worldsize.parallel.tensor_axis import TensorAxis
from worldsize.parallel.tensor_plan import apply, own_rows, reordered, row_order
from worldsize.parallel.tensor_replica import whole_from_tp
from worldsize.train.feed import Feed
from worldsize.train.replica import whole
from worldsize.train.run import seed_dropout

GROUPED = {"num_kv_heads": 2, "activation": "swiglu", "d_ff": 64}


def test_a_rank_holds_its_share_of_each_fused_part() -> None:
    # queries 0-7, keys 8-11, values 12-15
    assert own_rows((8, 4, 4), 0, 2).tolist() == [0, 1, 2, 3, 8, 9, 12, 13]
    assert own_rows((8, 4, 4), 1, 2).tolist() == [4, 5, 6, 7, 10, 11, 14, 15]
    assert row_order((2, 2), 2).tolist() == [0, 2, 1, 3]


def test_only_fused_matrices_and_their_biases_are_held_in_another_order() -> None:
    names = reordered(describe(config_of(model=GROUPED | {"num_layers": 1}).model), 2)
    prefix = "blocks.0."
    fused = ("attention.qkv.weight", "attention.qkv.bias", "feed_forward.up.weight", "feed_forward.up.bias")
    assert set(names) == {prefix + name for name in fused}


def sharded_loss(rank: int, world_size: int, smoothing: float) -> tuple[float, torch.Tensor]:
    """Return the loss, and the gradient of this rank's columns."""
    logits, targets = logits_and_targets()
    axis = TensorAxis(init_device_mesh("cpu", (world_size,), mesh_dim_names=("tp",)), logits.shape[-1])
    own = logits[..., axis.part_of(logits.shape[-1])].contiguous().requires_grad_()
    loss = axis.loss_sum(own, targets, smoothing)
    loss.backward()
    assert own.grad is not None
    return float(loss.detach()), own.grad


def logits_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 30 * torch.randn(3, 5, 13, generator=generator, dtype=torch.float64)  # far beyond what exp takes in fp32
    targets = torch.randint(0, 13, (3, 5), generator=generator)
    targets[0, 2:] = IGNORED_TARGET
    return logits, targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_over_a_spread_vocabulary_is_cross_entropys(smoothing: float, two_ranks: Ranks) -> None:
    logits, targets = logits_and_targets()
    logits.requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_TARGET, reduction="sum", label_smoothing=smoothing
    )
    expected.backward()
    (loss, left), (other_loss, right) = two_ranks.run(sharded_loss, smoothing)
    assert loss == other_loss == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(torch.cat((left, right), -1), logits.grad, rtol=1e-12, atol=1e-12)


def double_gradients(rank: int, world_size: int, config: Config) -> dict[str, float]:
    """Return, for every parameter, how far this rank's part of its float64 gradient is from one device's."""
    tokens, targets = (part[:4] for part in (torch.arange(64).view(4, 16) % 61, torch.arange(7, 71).view(4, 16) % 59))
    one = build(config.model, 0, "cpu").double()
    plain = torch.nn.functional.cross_entropy(one(tokens).flatten(0, 1), targets.flatten(), reduction="sum")
    plain.backward()
    model = build(config.model, 0, "cpu").double()
    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("tp",))
    axis = apply(model, describe(config.model), mesh)
    loss = axis.loss_sum(model(tokens), targets)
    assert loss.dtype == torch.float64
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-12)
    loss.backward()
    orders = reordered(describe(config.model), world_size)
    errors = {}
    for name, parameter in model.named_parameters():
        gradient: Any = parameter.grad
        is_whole = gradient.placements[0].is_replicate()
        found = axis.all_reduce(gradient.to_local()) if is_whole else whole(gradient)
        expected = one.get_parameter(name).grad
        assert expected is not None
        expected = expected[orders[name]] if name in orders else expected
        errors[name] = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
    return errors


@pytest.mark.parametrize(
    "shape", [{"vocab_size": 65}, GROUPED | {"norm": "rmsnorm", "positions": "rotary", "tied_head": False}]
)
def test_every_gradient_is_one_devices_in_float64(shape: dict[str, Any], two_ranks: Ranks) -> None:
    for errors in two_ranks.run(double_gradients, config_of(model=shape)):
        assert {name for name, error in errors.items() if error > 1e-9} == set()


def prepared(rank: int, world_size: int, config: Config, *, num_steps: int) -> TensorParallel:
    layout = layout_for(config.parallel, world_size)
    context = RankContext(rank, world_size, rank, torch.device("cpu"), layout)
    strategy = TensorParallel()
    strategy.prepare(build(config.model, config.train.seed, context.device), config, context)
    data = UnevenSamples()
    feed = Feed(data, Sampler(data.num_samples, 0), batches_for(config.train, layout), context)  # type: ignore[arg-type]
    for step in range(num_steps):
        strategy.step(feed.share(step).micro_batches, 1e-3, NullClock())
    return strategy


def state_there_and_back(rank: int, world_size: int, config: Config) -> None:
    """Assert that `state` holds whole tensors in one device's order, and that another strategy takes it over."""
    ahead, behind = (prepared(rank, world_size, config, num_steps=n) for n in (2, 1))
    state = ahead.state()
    for name, tensor in ahead.full_parameters():
        assert torch.equal(whole_from_tp(state["model"][name]), tensor), name
    behind.load_state(state)
    expected, found = (
        {name: (whole_from_tp(each["exp_avg"]), whole_from_tp(each["exp_avg_sq"])) for name, each in moments.items()}
        for moments in (state["optimizer"]["state"], behind.state()["optimizer"]["state"])
    )
    for (name, tensor), (_, other) in zip(ahead.full_parameters(), behind.full_parameters(), strict=True):
        assert torch.equal(other, tensor), name
    assert all(torch.equal(a, b) for name in expected for a, b in zip(expected[name], found[name], strict=True))


@pytest.mark.parametrize("axes", [{}, {"fsdp": 2, "tp": 2}])
def test_state_is_in_one_devices_order_and_loads_back(axes: dict[str, int], request: pytest.FixtureRequest) -> None:
    ranks: Ranks = request.getfixturevalue("four_ranks" if axes else "two_ranks")
    ranks.run(
        state_there_and_back, config_of(model=GROUPED | {"num_layers": 1}, parallel={"strategy": "tensor", **axes})
    )


def test_ranks_that_share_samples_draw_other_dropout() -> None:
    layout = layout_for(config_of(parallel={"strategy": "tensor", "tp": 2}).parallel, 4)
    drawn = []
    for rank in range(4):
        seed_dropout(7, RankContext(rank, 4, rank, torch.device("cpu"), layout))
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == 4
