"""The solver against scipy's, intervals against the exact t intervals of ordinary regression."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from worldsize.scaling.regression import Noise, confidence_set, directions, independent, margin, noise, solve


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 4))
@hypothesis_settings(deadline=None)
def test_solve_agrees_with_scipy(seed: int, num_parts: int, spare_rows: int) -> None:
    rng = np.random.default_rng(seed)
    design = rng.random((num_parts + spare_rows, num_parts)) * 10.0 ** rng.integers(-6, 6, num_parts)
    targets = rng.normal(0.5, 1, (num_parts + spare_rows, 3))
    ours = solve(design, targets)
    assert (ours >= 0).all()
    for column in range(3):
        theirs, residual = nnls(design, targets[:, column])
        assert np.linalg.norm(targets[:, column] - design @ ours[:, column]) <= residual * (1 + 1e-7) + 1e-9
        np.testing.assert_allclose(design @ ours[:, column], design @ theirs, atol=1e-5)


def test_columns_that_are_mixtures_are_noticed() -> None:
    n = np.array([1.0, 2, 4, 8])
    assert independent(np.stack([1 / n, n], axis=1))
    assert not independent(np.stack([1 / n, np.ones(4), (n - 1) / n], axis=1))
    assert not independent(np.stack([1 / n, np.zeros(4)], axis=1))
    assert not independent(np.ones((1, 2)))


def test_away_from_bounds_the_set_spans_the_exact_interval() -> None:
    rng = np.random.default_rng(1)
    design = np.stack([np.ones(12), np.linspace(1, 3, 12)], axis=1)
    targets = design @ [5.0, 2.0] + 0.05 * rng.standard_normal(12)
    weights, (squares,), _, _ = np.linalg.lstsq(design, targets)
    sd = np.sqrt(squares / 10)
    reach = margin(Noise(sd, 10, None))
    assert reach == pytest.approx(t_distribution.ppf(0.975, 10) * sd)
    allowed = confidence_set(design, targets, reach)
    row = np.array([1.0, 6.0])
    half = reach * np.sqrt(row @ np.linalg.inv(design.T @ design) @ row)
    assert (row @ allowed).max() == pytest.approx(row @ weights + half, rel=1e-3)
    assert (row @ allowed).min() == pytest.approx(row @ weights - half, rel=1e-3)


def test_at_a_bound_the_set_spans_what_a_general_optimiser_finds() -> None:
    rng = np.random.default_rng(2)
    n = np.repeat([1.0, 2, 4], 3)
    design = np.stack([1 / n, (n - 1) / n, n - 1], axis=1)
    targets = design @ [1.0, 0.1, 0.0] + 0.02 * rng.standard_normal(9)
    allowed = confidence_set(design, targets, 0.06)
    best = allowed[:, -1]
    limit = np.sum((targets - design @ best) ** 2) + 0.06**2
    row = np.array([1 / 8, 7 / 8, 7.0])
    found = minimize(
        lambda w: -row @ w,
        best + 1e-3,
        bounds=[(0, None)] * 3,
        constraints={"type": "ineq", "fun": lambda w: limit - np.sum((targets - design @ w) ** 2)},
    )
    assert (row @ allowed).max() == pytest.approx(-found.fun, rel=0.01)


def test_directions_are_dense() -> None:
    for size in (1, 2, 3, 4):
        vectors = directions(size)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1)
        probes = np.random.default_rng(9).standard_normal((size, 500))
        nearest = (probes / np.linalg.norm(probes, axis=0)).T @ vectors
        assert np.quantile(nearest.max(axis=1), 0.5) > 0.99


def test_noise_by_hand() -> None:
    pooled = noise(0.0, 8.0, num_runs=6, num_cells=2, num_parameters=2, num_free=2)
    assert (pooled.sd, pooled.degrees_of_freedom, pooled.misfit_p) == (pytest.approx(np.sqrt(2)), 4, None)
    far = noise(100.0, 6.0, num_runs=9, num_cells=3, num_parameters=2, num_free=2)
    assert far.is_misfit
    assert (far.sd, far.degrees_of_freedom) == (pytest.approx(10.0), 1)
    assert far.misfit_p == pytest.approx(f_distribution.sf(100.0, 1, 6), rel=1e-6)
    with pytest.raises(ValueError, match="2 runs cannot tell 2 parameters"):
        noise(0.0, 0.0, num_runs=2, num_cells=2, num_parameters=2, num_free=2)
