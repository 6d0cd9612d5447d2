"""One rank's training against plain torch in float64, and what precision and compilation keep."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.conformance.steps import config_of, samples_of, train
from worldsize.data.batch import IGNORED_TARGET
from worldsize.models.build import build


def plain_losses(dtype: torch.dtype) -> list[float]:
    """Train as `train(0, 1, config_of())` does, in plain torch and whole batches; return mean losses."""
    config = config_of()
    model = build(config.model, config.train.seed, "cpu").to(dtype)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(config.train.steps):
        tokens, targets = samples_of(step, config.train.global_batch)
        loss = torch.nn.functional.cross_entropy(
            model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED_TARGET
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def means(losses: list[float]) -> list[float]:
    """Divide each step's loss sum by its target tokens."""
    counts = [int((samples_of(step, 8)[1] != IGNORED_TARGET).sum()) for step in range(len(losses))]
    return [loss / count for loss, count in zip(losses, counts, strict=True)]


def test_losses_equal_plain_torch_in_float64() -> None:
    assert means(train(0, 1, config_of())["losses"]) == pytest.approx(plain_losses(torch.float64), rel=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_accumulation_changes_nothing_but_rounding(micro_batch: int) -> None:
    whole, cut = train(0, 1, config_of()), train(0, 1, config_of(train={"micro_batch": micro_batch}))
    assert cut["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    assert cut["norms"] == pytest.approx(whole["norms"], rel=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 2e-2), ("fp16", 5e-3)])
def test_reduced_precision_stays_near_fp32_and_keeps_fp32_weights(precision: str, tolerance: float) -> None:
    reduced, full = train(0, 1, config_of(train={"precision": precision})), train(0, 1, config_of())
    assert reduced["losses"] == pytest.approx(full["losses"], rel=tolerance)
    assert reduced["losses"] != full["losses"]
    assert {p.dtype for p in reduced["after"].values()} == {torch.float32}


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_scale() -> None:
    from worldsize.train.precision import Precision

    model = torch.nn.Linear(4, 4)
    precision = Precision("fp16", torch.device("cpu"), 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    before, scale = model.weight.detach().clone(), precision.scaler.get_scale()
    precision.scaler.scale(model(torch.full((1, 4), 1e38)).sum() * 1e30).backward()
    precision.scaler.step(optimizer)
    precision.scaler.update()
    assert torch.equal(model.weight, before)
    assert precision.scaler.get_scale() == scale / 2 or scale == 1.0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on CPU needs a C++ compiler")
def test_compilation_changes_nothing_but_rounding() -> None:
    compiled, eager = train(0, 1, config_of(train={"compile": True})), train(0, 1, config_of())
    assert compiled["losses"] == pytest.approx(eager["losses"], rel=1e-5)
    assert compiled["after"].keys() == eager["after"].keys()


def test_dropout_is_reproducible_from_the_seed() -> None:
    config = config_of(model={"dropout": 0.2})
    first = train(0, 1, config)["losses"]
    assert train(0, 1, config)["losses"] == first
    assert first != train(0, 1, config_of())["losses"]
