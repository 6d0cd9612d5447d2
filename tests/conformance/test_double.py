"""Every row of CASES that rounds nothing, again in float64: equal to one device within 1e-9, where fp32 hides mistakes.

A row joins by being in CASES; one whose technique computes in less than float64 says `takes_double=False` there.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from tests.conformance.steps import config_of, train
from tests.conformance.test_strategies import CASES, RANKS, Case, trained_alone
from tests.ranks import Ranks
from worldsize.config.schema import Config

TOLERANCE = 1e-9
"""Relative to a loss, or to the largest element of a tensor."""
SHOWN_ON_TWO = ("pipeline, ", "model parallel, ", "dp×pp, ")
"""Rows whose four ranks do what two do, only longer."""
PAIRS = [
    (name, world_size)
    for name, case in CASES.items()
    for world_size in (case.world_sizes if "," not in name else case.world_sizes[:1])
    if case.double and (world_size == 2 or not name.startswith(SHOWN_ON_TWO)) and world_size < 8
]
"""Four ranks only for each technique's plain row: what its settings change shows on two."""

Trained = tuple[dict[str, Any], list[dict[str, Any]]]


def in_double(case: Case, strategy: str | None = None) -> Config:
    config = case.config(strategy)
    return config.model_copy(update={"train": config.train.model_copy(update={"precision": "fp64"})})


def alone(name: str) -> dict[str, Any]:
    return trained_alone(in_double(CASES[name], "single").model_dump_json())


@pytest.fixture(scope="module", params=PAIRS, ids=[f"{name} on {world_size}" for name, world_size in PAIRS])
def trained(request: pytest.FixtureRequest) -> Trained:
    """Return what one device made of the row, and what each rank made of it."""
    name, world_size = request.param
    ranks: Ranks = request.getfixturevalue(RANKS[world_size])
    observe = "," not in name  # tracing takes longer than training: the plain row of each technique is enough
    return alone(name), ranks.run(functools.partial(train, observe=observe), in_double(CASES[name]))


def assert_near(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert tensor.dtype == torch.float64
        assert float((ours[name] - tensor).abs().max()) <= TOLERANCE * float(tensor.abs().max()), name


def test_losses(trained: Trained) -> None:
    single, ranks = trained
    sums = [sum(losses) for losses in zip(*(one["losses"] for one in ranks), strict=True)]
    assert sums == pytest.approx(single["losses"], rel=TOLERANCE)


def test_every_gradient_at_step_1(trained: Trained) -> None:
    single, ranks = trained
    assert_near({name: gradient for one in ranks for name, gradient in one["gradients"].items()}, single["gradients"])


def test_every_parameter_at_step_10(trained: Trained) -> None:
    single, ranks = trained
    assert_near(ranks[0]["after"], single["after"])
    assert len({one["checksum"] for one in ranks}) == 1


def test_gradient_norms(trained: Trained) -> None:
    single, ranks = trained
    for one in ranks:
        assert len(one["norms"]) == len(single["norms"])
        for ours, theirs in zip(one["norms"], single["norms"], strict=True):
            assert ours is theirs is None or ours == pytest.approx(theirs, rel=TOLERANCE)


def test_predicted_collectives_are_those_observed(trained: Trained) -> None:
    for one in trained[1]:
        assert one["observed"] in (None, one["predicted"])


def test_the_gradients_are_those_of_plain_autograd() -> None:
    """What the rows are compared with is itself right: one device's gradient of the whole batch, clipped."""
    from tests.conformance.steps import samples_of
    from worldsize.data.batch import IGNORED_TARGET
    from worldsize.models.build import build
    from worldsize.train.loss import loss_sum

    config = config_of(train={"precision": "fp64", "steps": 1})
    tokens, targets = samples_of(0, config.train.global_batch)
    model = build(config.model, config.train.seed, "cpu").double()
    loss = loss_sum(model(tokens), targets) / int((targets != IGNORED_TARGET).sum())
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    assert config.train.grad_clip_norm is not None
    factor = min(1.0, config.train.grad_clip_norm / (norm + 1e-6))
    expected = {name: gradient * factor for name, gradient in zip(names, gradients, strict=True)}
    assert_near(train(0, 1, config)["gradients"], expected)
