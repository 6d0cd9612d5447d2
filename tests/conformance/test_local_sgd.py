"""Local steps between averages: compared with the same ranks simulated one after another, in one process in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.steps import NUM_CLASSES, NUM_STEPS, config_of, samples_for, train
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.data.sampler import Sampler
from worldsize.models.build import build
from worldsize.train.loss import loss_sum

PLAIN = {"strategy": "local_sgd", "local_steps": 5}
DILOCO = {**PLAIN, "outer_learning_rate": 0.7, "outer_momentum": 0.9}
DOUBLE = {"precision": "fp64"}


def simulated(config: Config, num_ranks: int) -> tuple[list[float], dict[str, Tensor]]:
    """Return each step's loss summed over the ranks, and the last weights: plain autograd and written-out updates.

    Every rank has a model of its own, AdamW from its definition, its own clipping; the outer step is Nesterov momentum
    as Sutskever et al. 2013 in the form that torch documents.
    """
    models = [build(config.model, config.train.seed, "cpu").double() for _ in range(num_ranks)]
    moments = [[(torch.zeros_like(w), torch.zeros_like(w)) for w in model.parameters()] for model in models]
    anchors = [w.detach().clone() for w in models[0].parameters()]
    velocities = [torch.zeros_like(w) for w in anchors]
    rate, momentum = config.parallel.outer_learning_rate, config.parallel.outer_momentum
    data, losses = samples_for(config), []
    for step in range(config.train.steps):
        ids = Sampler(data.num_samples, config.train.seed).sample_ids(step, config.train.global_batch)
        batch = data.batch(ids, 1)
        inputs = [batch.tokens_BT, *([] if batch.segments_BT is None else [batch.segments_BT])]
        global_tokens, share = data.num_target_tokens(ids), len(ids) // num_ranks
        losses.append(0.0)
        for rank, model in enumerate(models):
            mine = slice(rank * share, (rank + 1) * share)
            loss = loss_sum(model(*(each[mine] for each in inputs)), batch.targets_BT[mine])
            losses[-1] += float(loss.detach())
            gradients = torch.autograd.grad(loss * num_ranks / global_tokens, list(model.parameters()))
            adamw(model, list(gradients), moments[rank], step + 1, config)
        if (step + 1) % config.parallel.local_steps == 0:
            for index, weights in enumerate(zip(*(model.parameters() for model in models), strict=True)):
                mean = torch.stack([w.detach() for w in weights]).mean(0)
                gradient = anchors[index] - mean
                velocities[index] = momentum * velocities[index] + gradient
                anchors[index] = anchors[index] - rate * (gradient + momentum * velocities[index])
                for w in weights:
                    w.data.copy_(anchors[index])
    return losses, {name: w.detach() for name, w in models[0].named_parameters()}


def adamw(model: torch.nn.Module, gradients: list[Tensor], moments: Any, number: int, config: Config) -> None:
    """Clip one rank's gradient and update its weights (Loshchilov & Hutter 2019, algorithm 2)."""
    settings = config.optimizer
    if config.train.grad_clip_norm is not None:
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        gradients = [g * min(1.0, config.train.grad_clip_norm / float(norm + 1e-6)) for g in gradients]
    for w, g, (mean, square) in zip(model.parameters(), gradients, moments, strict=True):
        mean.mul_(settings.beta1).add_(g, alpha=1 - settings.beta1)
        square.mul_(settings.beta2).addcmul_(g, g, value=1 - settings.beta2)
        corrected = (mean / (1 - settings.beta1**number), square / (1 - settings.beta2**number))
        decay = settings.weight_decay if w.ndim >= 2 else 0.0
        w.data.mul_(1 - settings.learning_rate * decay)
        w.data.sub_(settings.learning_rate * corrected[0] / (corrected[1].sqrt() + settings.eps))


@pytest.mark.parametrize(
    ("parallel", "train_settings"),
    [(PLAIN, {}), (DILOCO, {}), (PLAIN, {"grad_clip_norm": None}), (DILOCO, {"micro_batch": 1})],
)
@pytest.mark.parametrize("world_size", [2, 4])
def test_as_simulated(
    parallel: dict[str, Any], train_settings: dict[str, Any], world_size: int, request: pytest.FixtureRequest
) -> None:
    ranks: Ranks = request.getfixturevalue("two_ranks" if world_size == 2 else "four_ranks")
    compare(ranks, config_of(parallel=parallel, train=DOUBLE | train_settings), world_size)


def test_a_classifier_as_simulated(two_ranks: Ranks) -> None:
    task = {"data": {"task": "classification"}, "model": {"kind": "encoder", "num_classes": NUM_CLASSES}}
    compare(two_ranks, config_of(parallel=PLAIN, train=DOUBLE, **task), 2)


def compare(ranks: Ranks, config: Config, world_size: int) -> None:
    """Train on the ranks and hold losses and weights against those simulated."""
    expected_losses, expected = simulated(config, world_size)
    found = ranks.run(train, config)
    sums = [sum(losses) for losses in zip(*(one["losses"] for one in found), strict=True)]
    assert sums == pytest.approx(expected_losses, rel=1e-9)
    for name, weight in expected.items():
        assert float((found[0]["after"][name] - weight).abs().max()) <= 1e-9 * float(weight.abs().max()), name
    assert len({one["checksum"] for one in found}) == 1


def test_ranks_part_between_averages_and_agree_after_them(two_ranks: Ranks) -> None:
    between = two_ranks.run(train, config_of(parallel=PLAIN, train={"steps": 7}))
    assert between[0]["checksum"] != between[1]["checksum"]
    after = two_ranks.run(train, config_of(parallel=PLAIN, train={"steps": 5}))
    assert after[0]["checksum"] == after[1]["checksum"]


def test_an_outer_rate_of_one_without_momentum_is_the_average(two_ranks: Ranks) -> None:
    """The one that keeps anchors, at a rate that differs from 1 by rounding, and the one that keeps none."""
    plain = two_ranks.run(train, config_of(parallel=PLAIN, train=DOUBLE))[0]["after"]
    anchored = {**PLAIN, "outer_learning_rate": 1.0 + 1e-15}
    kept = two_ranks.run(train, config_of(parallel=anchored, train=DOUBLE))[0]["after"]
    for name, weight in plain.items():
        torch.testing.assert_close(kept[name], weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("parallel", [{"strategy": "local_sgd", "local_steps": 1}, {**DILOCO, "local_steps": 3}])
def test_predicted_bytes_are_the_mean_of_a_period(parallel: dict[str, Any], two_ranks: Ranks) -> None:
    from functools import partial

    for one in two_ranks.run(partial(train, observe=True), config_of(parallel=parallel)):
        assert one["observed"] == one["predicted"]
        assert one["predicted"][0].payload_bytes > 0


def test_averages_are_exposed_in_the_steps_in_which_they_happen(two_ranks: Ranks) -> None:
    for one in two_ranks.run(train, config_of(parallel=PLAIN)):
        exposed = [step.phases_s["exposed_communication_s"] for step in one["times"]]
        assert [number + 1 for number in range(NUM_STEPS) if exposed[number] > 0] == [5, 10]
