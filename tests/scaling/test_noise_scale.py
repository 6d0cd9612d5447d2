"""The noise scale of Gaussian gradients whose noise is known, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from worldsize.errors import UserError
from worldsize.scaling.noise_scale import (
    NoiseScale,
    gradient_noise_scale,
    sample_efficiency,
    step_efficiency,
    unbiased,
)


def norms(
    noise_scale: float, *, steps: int, ranks: int, per_rank_batch: int, rng: np.random.Generator, width: int = 300
) -> tuple[np.ndarray, np.ndarray]:
    """Norms of gradients with |G| = 1 and tr(Σ) = noise_scale, of each rank and of their average."""
    gradients = rng.standard_normal((steps, ranks, width)) * math.sqrt(noise_scale / width / per_rank_batch)
    gradients[:, :, 0] += 1.0
    return np.linalg.norm(gradients, axis=2), np.linalg.norm(gradients.mean(axis=1), axis=1)


def test_both_terms_by_hand() -> None:
    # |G|² = 4, tr(Σ) = 24: squared norms of 4 + 24 / 2 = 16 at batch 2 and 4 + 24 / 8 = 7 at batch 8
    squares, traces = unbiased(np.array([16.0]), np.array([7.0]), 2, 8)
    assert squares[0] == pytest.approx(4)
    assert traces[0] == pytest.approx(24)


def test_noise_free_norms_give_the_scale_exactly() -> None:
    result = gradient_noise_scale(np.full((10, 4), 4.0), np.full(10, math.sqrt(7)), 2)
    assert result.noise_scale is not None
    assert result.noise_scale.value == pytest.approx(6)
    assert result.global_batch == 8
    assert result.step_efficiency is not None
    assert result.step_efficiency.value == pytest.approx(8 / 14)
    assert result.sample_efficiency is not None
    assert result.sample_efficiency.value == pytest.approx(6 / 14)


@given(st.floats(0.1, 3), st.integers(2, 8), st.integers(1, 16), st.integers(0, 10_000))
@hypothesis_settings(deadline=None, max_examples=50)
def test_recovers_a_known_scale(in_batches: float, ranks: int, per_rank_batch: int, seed: int) -> None:
    noise_scale = in_batches * ranks * per_rank_batch
    rng = np.random.default_rng(seed)
    rank_norms, averaged = norms(noise_scale, steps=400, ranks=ranks, per_rank_batch=per_rank_batch, rng=rng)
    found = gradient_noise_scale(rank_norms, averaged, per_rank_batch)
    assert found.noise_scale is not None
    assert found.noise_scale.value == pytest.approx(noise_scale, rel=0.35)
    assert found.gradient_squared == pytest.approx(1, rel=0.35)


@given(st.floats(1e-4, 1e4))
@hypothesis_settings(deadline=None, max_examples=20)
def test_the_unit_of_the_loss_does_not_matter(unit: float) -> None:
    rank_norms, averaged = norms(20, steps=30, ranks=4, per_rank_batch=8, rng=np.random.default_rng(0))
    one, other = (
        gradient_noise_scale(rank_norms, averaged, 8),
        gradient_noise_scale(rank_norms * unit, averaged * unit, 8),
    )
    assert one.noise_scale is not None
    assert other.noise_scale is not None
    assert other.noise_scale.value == pytest.approx(one.noise_scale.value)
    assert other.noise_scale.high == pytest.approx(one.noise_scale.high)


@given(st.floats(0.1, 1e5), st.floats(1, 1e5))
def test_efficiencies_obey_the_trade_off(noise_scale: float, batch: float) -> None:
    # (steps / least steps - 1) (samples / least samples - 1) = 1, McCandlish et al. 2018, section 2.3
    steps, samples = 1 / step_efficiency(noise_scale, batch), 1 / sample_efficiency(noise_scale, batch)
    assert (steps - 1) * (samples - 1) == pytest.approx(1, rel=1e-6)


def test_what_cannot_be_known_is_absent_with_a_reason() -> None:
    one_rank = gradient_noise_scale(np.ones((20, 1)), np.ones(20), 8)
    assert one_rank.noise_scale is None
    assert "2 or more data-parallel ranks" in (one_rank.absent_because or "")
    assert "needs 10" in (gradient_noise_scale(np.ones((9, 2)), np.ones(9), 8).absent_because or "")
    pure_noise = gradient_noise_scale(np.ones((20, 2)), np.full(20, 0.6), 8)
    assert "cannot be told from its noise" in (pure_noise.absent_because or "")


def test_a_gradient_almost_lost_in_noise_has_no_upper_end() -> None:
    for seed in range(20):
        rank_norms, averaged = norms(3000, steps=30, ranks=2, per_rank_batch=8, rng=np.random.default_rng(seed))
        found = gradient_noise_scale(rank_norms, averaged, 8)
        if found.noise_scale is not None and found.noise_scale.high is None:
            assert NoiseScale.model_validate_json(found.model_dump_json()) == found
            assert found.step_efficiency is not None
            assert found.step_efficiency.low == 0.0
            return
    pytest.fail("none of 20 noisy gradients left the scale unbounded")


@pytest.mark.parametrize(
    ("rank_norms", "averaged", "batch", "message"),
    [
        (np.ones((3, 2)), np.ones(4), 8, "do not belong together"),
        (np.ones(3), np.ones(3), 8, "do not belong together"),
        (np.ones((3, 2)), np.ones(3), 0, "batch of 0"),
        (np.array([[1, 1], [1, np.nan]]), np.ones(2), 8, "step 1"),
        (np.ones((2, 2)), np.array([-1.0, 1.0]), 8, "step 0"),
    ],
)
def test_impossible_norms_are_named(rank_norms: np.ndarray, averaged: np.ndarray, batch: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gradient_noise_scale(rank_norms, averaged, batch)


@pytest.mark.slow
@pytest.mark.parametrize(("noise_scale", "steps", "ranks"), [(10, 20, 2), (100, 20, 8), (100, 50, 4)])
def test_the_interval_covers_as_often_as_it_claims(noise_scale: float, steps: int, ranks: int) -> None:
    rng, held = np.random.default_rng(4), 0
    for _ in range(500):
        rank_norms, averaged = norms(noise_scale, steps=steps, ranks=ranks, per_rank_batch=8, rng=rng)
        found = gradient_noise_scale(rank_norms, averaged, 8).noise_scale
        assert found is not None
        held += (found.low or 0) <= noise_scale <= (found.high if found.high is not None else math.inf)
    print(noise_scale, steps, ranks, held / 500)
    assert 0.90 <= held / 500 <= 0.99
