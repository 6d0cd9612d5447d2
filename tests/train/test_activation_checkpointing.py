"""Recomputing blocks changes no number, keeps less memory, and draws the same dropout again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conformance.steps import config_of, samples_of, train
from worldsize.models.build import build
from worldsize.models.cost import describe
from worldsize.train.activation_checkpointing import checkpoint_modules, recomputed_modules
from worldsize.train.loss import loss_sum


@pytest.mark.parametrize("what", ["block", "attention"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_norms_and_weights_are_the_same_bits(precision: str, what: str) -> None:
    kept = train(0, 1, config_of(train={"precision": precision}))
    recomputed = train(0, 1, config_of(train={"activation_checkpointing": what, "precision": precision}))
    assert recomputed["losses"] == kept["losses"]
    assert recomputed["norms"] == kept["norms"]
    assert recomputed["checksum"] == kept["checksum"]
    assert recomputed["state_names"] == kept["state_names"]


@pytest.mark.parametrize("what", ["block", "attention"])
def test_dropout_is_drawn_again_in_the_recomputation(what: str) -> None:
    results = []
    for extra in ({}, {"activation_checkpointing": what}, {"activation_checkpointing": what}):
        results.append(train(0, 1, config_of(model={"dropout": 0.2}, train={"steps": 3, **extra})))
    kept, recomputed, again = results
    assert recomputed["losses"] == again["losses"] == kept["losses"]
    assert recomputed["checksum"] == again["checksum"] == kept["checksum"]


def bytes_kept_for_backward(what: str, *, num_layers: int, **shape: Any) -> int:
    """Return the bytes of all tensors, parameters excepted, that one forward leaves behind for its backward."""
    config = config_of(model={"num_layers": num_layers, **shape})
    model = build(config.model, 0, "cpu")
    checkpoint_modules(model, recomputed_modules(what, describe(config.model)))
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens, targets = samples_of(0, 8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_sum(model(tokens), targets)
    assert loss.isfinite()
    return sum(kept.values())


def test_less_is_kept_and_what_a_block_adds_is_its_input_alone() -> None:
    recomputed = bytes_kept_for_backward("block", num_layers=4)
    assert recomputed < 0.4 * bytes_kept_for_backward("none", num_layers=4)
    added = bytes_kept_for_backward("block", num_layers=5) - recomputed
    assert added == 8 * 16 * 32 * 4  # samples × positions × width × fp32


def test_recomputed_attention_does_not_keep_what_it_makes_of_its_input() -> None:
    """Of each block go the rotated queries and keys, (B, T, C) each, and attention's log-sums of rows, (B, H, T)."""

    def of_a_block(what: str) -> int:
        four, five = (bytes_kept_for_backward(what, num_layers=n, positions="rotary") for n in (4, 5))
        return five - four

    assert of_a_block("none") - of_a_block("attention") >= 2 * 8 * 16 * 32 * 4 + 8 * 4 * 16 * 4
