"""Fits recover known laws, choose between them, say when they cannot, and cover as often as they claim."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.scaling.known_laws import PAYLOAD_BYTES, TimeOf, alpha_beta, amdahl, gustafson, study, usl
from worldsize.errors import UserError
from worldsize.scaling.fit import fit_laws
from worldsize.scaling.fit_records import LawFit, LawFits
from worldsize.scaling.laws import (
    ALPHA_BETA,
    AMDAHL,
    GUSTAFSON,
    USL,
    Amdahl,
    Law,
    Scaling,
)
from worldsize.scaling.observations import Observation


def fit_of(fits: LawFits, law: Law) -> LawFit:
    return next(fit for fit in fits.fits if fit.law == law.name)


@given(st.floats(1e-3, 1e3), st.floats(0.0, 0.9))
@hypothesis_settings(deadline=None, max_examples=40)
def test_recovers_amdahl(t1_s: float, serial: float) -> None:
    parameters = fit_of(fit_laws(study(amdahl(t1_s, serial), (1, 2, 4)), "strong"), AMDAHL).curves[0].parameters
    assert parameters["t1_s"].value == pytest.approx(t1_s, rel=1e-6)
    assert parameters["serial_fraction"].value == pytest.approx(serial, abs=1e-6)


@given(st.floats(1e-3, 1e3), st.floats(0.0, 0.9))
@hypothesis_settings(deadline=None, max_examples=40)
def test_recovers_gustafson(t1_s: float, serial: float) -> None:
    cells = study(gustafson(t1_s, serial), (1, 2, 4), scaling="weak")
    parameters = fit_of(fit_laws(cells, "weak"), GUSTAFSON).curves[0].parameters
    assert parameters["t1_s"].value == pytest.approx(t1_s, rel=1e-6)
    assert parameters["serial_fraction"].value == pytest.approx(serial, abs=1e-6)


@pytest.mark.parametrize("scaling", ["strong", "weak"])
@given(t1_s=st.floats(1e-3, 1e3), sigma=st.floats(0, 0.9), kappa=st.floats(0, 0.2))
@hypothesis_settings(deadline=None, max_examples=40)
def test_recovers_universal_scalability(scaling: Scaling, t1_s: float, sigma: float, kappa: float) -> None:
    cells = study(usl(t1_s, sigma, kappa, scaling), (1, 2, 4, 8), scaling=scaling)
    parameters = fit_of(fit_laws(cells, scaling), USL).curves[0].parameters
    assert parameters["t1_s"].value == pytest.approx(t1_s, rel=1e-6)
    assert parameters["sigma"].value == pytest.approx(sigma, abs=1e-6)
    assert parameters["kappa"].value == pytest.approx(kappa, abs=1e-6)


@given(st.floats(1e-3, 1), st.floats(0, 1), st.floats(1e8, 1e11), st.floats(0, 0.1))
@hypothesis_settings(deadline=None, max_examples=40)
def test_recovers_alpha_beta(per_sample: float, fixed: float, beta: float, alpha: float) -> None:
    cells = study(alpha_beta(per_sample, fixed, beta, alpha), (1, 2, 4), (16, 64))
    fit = fit_of(fit_laws(cells, "strong"), ALPHA_BETA)
    parameters = fit.curves[0].parameters
    step_s = per_sample * 64
    assert parameters["seconds_per_sample"].value == pytest.approx(per_sample, rel=1e-5)
    assert parameters["fixed_s"].value == pytest.approx(fixed, abs=1e-5 * step_s)
    assert parameters["alpha_s"].value == pytest.approx(alpha, abs=1e-5 * step_s)
    assert 1 / (parameters["beta_bytes_per_s"].value or math.inf) == pytest.approx(1 / beta, abs=1e-13 * step_s)


@given(st.floats(1e-6, 1e6), st.integers(0, 1000))
@hypothesis_settings(deadline=None, max_examples=25)
def test_the_unit_of_time_changes_nothing_but_times(unit: float, seed: int) -> None:
    cells = study(usl(1.0, 0.2, 0.02), (1, 2, 4), noise=0.02, rng=np.random.default_rng(seed))
    other = [Observation(c.devices, c.global_batch, [t * unit for t in c.step_times_s], PAYLOAD_BYTES) for c in cells]
    before, after = fit_laws(cells, "strong"), fit_laws(other, "strong")
    assert before.best == after.best
    for one, two in zip(before.outlook[0].doublings, after.outlook[0].doublings, strict=True):
        assert two.speedup.low == pytest.approx(one.speedup.low, rel=1e-6)
        assert two.step_time_s.high == pytest.approx(one.step_time_s.high * unit, rel=1e-6)


@pytest.mark.parametrize(
    ("time_of", "scaling", "batches", "law"),
    [
        (amdahl(1.0, 0.1), "strong", (64,), AMDAHL),
        (gustafson(1.0, 0.15), "weak", (8,), GUSTAFSON),
        (usl(1.0, 0.1, 0.03), "strong", (64,), USL),
        (usl(1.0, 0.1, 0.03, "weak"), "weak", (8,), USL),
        (alpha_beta(0.01, 0.02, 1e9, 1e-3), "strong", (32, 64), ALPHA_BETA),
    ],
)
def test_evidence_chooses_the_law_that_made_the_data(
    time_of: TimeOf, scaling: Scaling, batches: tuple[int, ...], law: Law
) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        fits = fit_laws(study(time_of, (1, 2, 4, 8), batches, scaling=scaling, noise=0.01, rng=rng), scaling)
        assert fits.best == law.name
        assert law.title in fits.evidence
        assert sum(fit.akaike_weight for fit in fits.fits) == pytest.approx(1)


def test_a_band_and_predictions_hold_the_noise_free_law() -> None:
    curve = fit_of(fit_laws(study(amdahl(2.0, 0.1), (1, 2, 4)), "strong"), AMDAHL).curves[0]
    for point in curve.band:
        assert point.step_time_s.value == pytest.approx(float(Amdahl(2.0, 0.1).time_s(point.devices)), rel=1e-6)
    assert [p.devices for p in curve.doublings] == [8, 16, 32]
    assert curve.doublings[0].speedup.value == pytest.approx(1 / (0.1 + 0.9 / 8), rel=1e-6)
    assert curve.believable_to == 16  # 32 is more than 4 times what was measured
    assert "more than 4 times" in (curve.doublings[2].doubt or "")


def test_weak_predictions_grow_the_batch_and_speak_of_rates() -> None:
    curve = fit_of(fit_laws(study(gustafson(1.0, 0.1), (1, 2, 4), (8,), scaling="weak"), "weak"), GUSTAFSON).curves[0]
    assert [p.global_batch for p in curve.doublings] == [64, 128, 256]
    assert curve.doublings[0].speedup.value == pytest.approx(8 - 0.1 * 7, rel=1e-6)


def test_no_more_devices_than_samples() -> None:
    curve = fit_laws(study(amdahl(1.0, 0.1), (1, 2, 4), (8,)), "strong").fits[0].curves[0]
    assert [p.devices for p in curve.doublings] == [8]


def test_the_outlook_holds_every_possible_law() -> None:
    # three device counts, small κ: parsimony takes Amdahl's law, but the data do not rule out a cost that grows
    truth = usl(1.0, 0.1, 0.01)
    cells = study(truth, (1, 2, 4), noise=0.03, rng=np.random.default_rng(0))
    fits = fit_laws(cells, "strong")
    assert fits.best == "amdahl"
    assert fits.outlook[0].laws == ["amdahl", "usl"]
    next_doubling, alone = fits.outlook[0].doublings[0], fits.fits[0].curves[0].doublings[0]
    assert alone.step_time_s.high is not None
    assert next_doubling.step_time_s.high is not None
    assert next_doubling.step_time_s.value == alone.step_time_s.value
    assert alone.step_time_s.high < truth(8, 64) < next_doubling.step_time_s.high


def test_two_device_counts_are_never_believed_further() -> None:
    fits = fit_laws(study(amdahl(1.0, 0.1), (1, 2), noise=0.01), "strong")
    assert fits.outlook[0].believable_to == 2
    assert "measure a third" in (fits.outlook[0].doublings[0].doubt or "")


@pytest.mark.parametrize("times", [(1.0, 1.4), (1.0, 0.45)])
def test_a_law_that_cannot_bend_so_says_that_it_does_not_fit(times: tuple[float, float]) -> None:
    # slower on two devices, and super-linear: neither is Amdahl's law
    fits = fit_laws(study(lambda n, _b: times[n - 1], (1, 2), noise=0.005), "strong")
    assert fits.fits[0].misfit is not None
    assert not fits.fits[0].is_possible
    assert "does not describe" in fits.evidence
    assert fits.outlook[0].believable_to == 2


def test_too_few_points_are_a_result() -> None:
    fits = fit_laws(study(amdahl(1.0, 0.1), (1,)), "strong")
    assert (fits.fits, fits.best, fits.outlook) == ([], None, [])
    reasons = {one.law: one.reason for one in fits.not_fitted}
    assert set(reasons) == {"amdahl", "usl", "alpha-beta"}
    assert "needs 2 device counts at global batch 64; measured: devices 1" in reasons["amdahl"]
    assert "needs 3 device counts" in reasons["usl"]
    assert "2 per-device batches" in reasons["alpha-beta"]
    assert fit_laws([], "weak").best is None


def test_equal_device_counts_are_too_few() -> None:
    cells = [Observation(2, 64, (1.0, 1.1, 0.9)), Observation(2, 64, (1.0, 1.0, 1.0))]
    assert fit_laws(cells, "strong").best is None


def test_one_run_a_point_is_too_few() -> None:
    fits = fit_laws(study(amdahl(1.0, 0.1), (1, 2, 4), repeats=1), "strong")
    assert "it needs 5 over these points, there are 3: add repeats" in fits.not_fitted[0].reason


def test_alpha_beta_needs_the_payload() -> None:
    cells = [
        Observation(c.devices, c.global_batch, c.step_times_s) for c in study(amdahl(1.0, 0.1), (1, 2, 4), (32, 64))
    ]
    reasons = {one.law: one.reason for one in fit_laws(cells, "strong").not_fitted}
    assert "not known" in reasons["alpha-beta"]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_impossible_times_are_named(bad: float) -> None:
    with pytest.raises(UserError, match=r"2 devices and global batch 64, repeat 1: a step time of .* is not possible"):
        Observation(2, 64, (1.0, bad))


@pytest.mark.parametrize(
    ("devices", "batch", "times", "payload", "message"),
    [
        (0, 64, (1.0,), None, "1 or more"),
        (1, 0, (1.0,), None, "1 or more"),
        (1, 64, (), None, "no step times"),
        (1, 64, (1.0,), -5.0, "payload of -5.0 bytes"),
        (1, 64, (1.0,), math.nan, "payload of nan bytes"),
    ],
)
def test_impossible_cells_are_named(
    devices: int, batch: int, times: tuple[float, ...], payload: float | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Observation(devices, batch, times, payload)


def test_unknown_scaling() -> None:
    with pytest.raises(UserError, match="Did you mean 'strong'"):
        fit_laws([], "strng")  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 99), st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=4)))
)
@hypothesis_settings(deadline=None, max_examples=60)
def test_any_positive_times_give_a_result(cells: list[tuple[int, int, list[float]]]) -> None:
    for scaling in ("strong", "weak"):
        fits = fit_laws([Observation(n, batch, times, 1e6) for n, batch, times in cells], scaling)  # type: ignore[arg-type]
        assert LawFits.model_validate_json(fits.model_dump_json()) == fits
        assert len(fits.fits) + len(fits.not_fitted) == 3


def test_a_study_is_analysed_in_a_third_of_a_second() -> None:
    cells = study(alpha_beta(0.01, 0.02, 1e9, 1e-3), (1, 2, 4, 8, 16), (32, 64, 128), noise=0.02)
    fit_laws(cells, "strong")
    started = time.process_time()
    fit_laws(cells, "strong")
    assert time.process_time() - started < 0.3
