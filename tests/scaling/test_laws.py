"""The laws against hand-computed values, and their two forms (formula and sum of parts) against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.scaling.laws import (
    ALPHA_BETA,
    AMDAHL,
    GUSTAFSON,
    LAWS,
    USL,
    AlphaBeta,
    Amdahl,
    Gustafson,
    UniversalScalability,
    settings,
)

SECONDS = st.floats(1e-4, 1e3)
FRACTION = st.floats(0, 1)
DEVICES = np.array([1.0, 2, 3, 4, 8, 64])


def test_amdahl_golden() -> None:
    # 10 s, a tenth serial, 10 devices: 1 s + 9 s / 10
    assert Amdahl(10.0, 0.1).time_s(10) == pytest.approx(1.9)


def test_gustafson_golden() -> None:
    law = Gustafson(2.0, 0.1)
    assert law.scaled_speedup(10) == pytest.approx(9.1)  # 10 - 0.1 × 9
    assert law.time_s(10) == pytest.approx(20 / 9.1)


def test_universal_scalability_golden() -> None:
    law = UniversalScalability(3.0, 0.1, 0.01)
    assert law.relative_rate(4) == pytest.approx(4 / (1 + 0.3 + 0.12))
    assert law.time_s(4) == pytest.approx(3 * 1.42 / 4)
    assert law.time_s(4, "weak") == pytest.approx(3 * 1.42)


def test_alpha_beta_golden() -> None:
    # 4 devices, 32 samples of 10 ms, 5 ms fixed, 6 hops of 1 ms, 1.5 × 100 MB over 1 GB/s
    law = AlphaBeta(0.010, 0.005, 1e9, 0.001)
    assert law.time_s(4, 32, 100e6) == pytest.approx(0.080 + 0.005 + 0.150 + 0.006)
    assert law.time_s(1, 32, 100e6) == pytest.approx(0.325)  # one device exchanges nothing


@given(SECONDS, FRACTION)
def test_amdahl_as_a_sum_of_parts(t1_s: float, serial: float) -> None:
    weights = np.array([[t1_s * serial], [t1_s * (1 - serial)]])
    columns = AMDAHL.columns(settings(DEVICES), "strong")
    np.testing.assert_allclose((columns @ weights)[:, 0], Amdahl(t1_s, serial).time_s(DEVICES))
    parameters = AMDAHL.parameters(weights)
    assert parameters["t1_s"][0] == pytest.approx(t1_s)
    assert parameters["serial_fraction"][0] == pytest.approx(serial)


@given(SECONDS, FRACTION)
def test_gustafson_as_a_sum_of_parts(t1_s: float, serial: float) -> None:
    weights = np.array([[(1 - serial) / t1_s], [serial / t1_s]])
    rate = GUSTAFSON.columns(settings(DEVICES), "weak") @ weights
    np.testing.assert_allclose(1 / rate[:, 0], Gustafson(t1_s, serial).time_s(DEVICES))
    parameters = GUSTAFSON.parameters(weights)
    assert parameters["t1_s"][0] == pytest.approx(t1_s)
    assert parameters["serial_fraction"][0] == pytest.approx(serial)


@pytest.mark.parametrize("scaling", ["strong", "weak"])
@given(t1_s=SECONDS, sigma=FRACTION, kappa=st.floats(0, 0.5))
def test_universal_scalability_as_a_sum_of_parts(scaling: str, t1_s: float, sigma: float, kappa: float) -> None:
    weights = t1_s * np.array([[1.0], [sigma], [kappa]])
    times = USL.columns(settings(DEVICES), scaling) @ weights  # type: ignore[arg-type]
    expected = UniversalScalability(t1_s, sigma, kappa).time_s(DEVICES, scaling)  # type: ignore[arg-type]
    np.testing.assert_allclose(times[:, 0], expected)


@given(SECONDS, SECONDS, st.floats(1e6, 1e12), st.floats(0, 1))
def test_alpha_beta_as_a_sum_of_parts(per_sample: float, fixed: float, beta: float, alpha: float) -> None:
    weights = np.array([[per_sample], [fixed], [1 / beta], [alpha]])
    times = ALPHA_BETA.columns(settings(DEVICES, 64, 5e8), "strong") @ weights
    np.testing.assert_allclose(times[:, 0], AlphaBeta(per_sample, fixed, beta, alpha).time_s(DEVICES, 64, 5e8))
    assert ALPHA_BETA.parameters(weights)["beta_bytes_per_s"][0] == pytest.approx(beta)


def test_the_greatest_rate_is_where_a_search_finds_it() -> None:
    law = UniversalScalability(1.0, 0.05, 0.0008)
    at = USL.parameters(np.array([[1.0], [0.05], [0.0008]]))["devices_at_greatest_rate"][0]
    devices = np.linspace(1, 100, 99_001)
    assert at == pytest.approx(devices[np.argmax(law.relative_rate(devices))], abs=0.01)


def test_what_costs_nothing_has_no_limit() -> None:
    assert AMDAHL.parameters(np.array([[0.0], [1.0]]))["greatest_speedup"][0] == np.inf
    assert USL.parameters(np.array([[1.0], [0.1], [0.0]]))["devices_at_greatest_rate"][0] == np.inf
    assert ALPHA_BETA.parameters(np.zeros((4, 1)))["beta_bytes_per_s"][0] == np.inf


def test_every_law_has_as_many_columns_as_parameters() -> None:
    for law in LAWS:
        for scaling in law.scalings:
            assert law.columns(settings([1, 2, 4], [8, 16, 32], 1e6), scaling).shape == (3, law.num_parameters)
