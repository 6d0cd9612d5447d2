"""Initial weights: right distribution, and a function of seed and name alone."""

from __future__ import annotations

import math

import pytest
import torch

from tests.models.model_configs import gpt, llama
from worldsize.models.build import build
from worldsize.models.decoder import Decoder
from worldsize.models.init import RESIDUAL_WRITERS, initial_value, name_seed


def test_seed_of_a_name_is_fixed_for_ever() -> None:
    """A literal value: a change here would silently change every published run."""
    assert name_seed(0, "head.weight") == 5935894693006122674
    assert name_seed(1, "head.weight") != name_seed(0, "head.weight")


def test_same_weights_whatever_was_built_before_and_in_what_order() -> None:
    first = build(gpt(), 0, "cpu").state_dict()
    torch.manual_seed(99)
    Decoder(llama())
    second = build(gpt(), 0, "cpu").state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert torch.equal(value, initial_value(name, value.shape, 0, num_layers=2))


def test_another_seed_gives_other_matrices() -> None:
    first, second = build(gpt(), 0, "cpu").state_dict(), build(gpt(), 1, "cpu").state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]) == (value.ndim == 1)


def test_a_deeper_model_shares_the_weights_of_the_names_it_shares() -> None:
    shallow, deep = build(gpt(num_layers=2), 0, "cpu").state_dict(), build(gpt(num_layers=8), 0, "cpu").state_dict()
    for name, value in shallow.items():
        scale = math.sqrt(8 / 2) if name.endswith(RESIDUAL_WRITERS) else 1.0
        torch.testing.assert_close(value, deep[name] * scale, rtol=1e-6, atol=0)


def test_distributions_are_gpt2s() -> None:
    state = build(llama(num_layers=3, d_model=128, d_ff=512, bias=True), 0, "cpu").state_dict()
    for name, value in state.items():
        if value.ndim == 1:
            assert torch.equal(value, torch.zeros_like(value) if name.endswith("bias") else torch.ones_like(value))
            continue
        std = 0.02 / math.sqrt(6) if name.endswith(RESIDUAL_WRITERS) else 0.02
        assert value.std().item() == pytest.approx(std, rel=6 / math.sqrt(2 * value.numel()))
        assert abs(value.mean().item()) < 5 * std / math.sqrt(value.numel())


def test_different_names_are_independent() -> None:
    one = initial_value("blocks.0.attention.qkv.weight", (64, 64), 0, 2).flatten()
    other = initial_value("blocks.1.attention.qkv.weight", (64, 64), 0, 2).flatten()
    assert abs(torch.corrcoef(torch.stack((one, other)))[0, 1]) < 0.08  # five standard errors of 4096 pairs
