"""Intervals hold the truth as often as they claim, over hundreds of studies of known laws with 3 % noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.scaling.known_laws import PAYLOAD_BYTES, TimeOf, alpha_beta, amdahl, gustafson, study, usl
from worldsize.scaling.estimate import estimate
from worldsize.scaling.fit import fit_laws
from worldsize.scaling.interval import further_run, interval_of
from worldsize.scaling.laws import ALPHA_BETA, AMDAHL, GUSTAFSON, USL, Law, Scaling, settings
from worldsize.scaling.regression import margin

INSIDE = [
    (AMDAHL, "strong", (1, 2), (64,), amdahl(1.0, 0.1), {"t1_s": 1.0, "serial_fraction": 0.1}),
    (AMDAHL, "strong", (1, 2, 4), (64,), amdahl(1.0, 0.1), {"t1_s": 1.0, "serial_fraction": 0.1}),
    (GUSTAFSON, "weak", (1, 2, 4), (8,), gustafson(1.0, 0.2), {"t1_s": 1.0, "serial_fraction": 0.2}),
    (USL, "strong", (1, 2, 4), (64,), usl(1.0, 0.3, 0.05), {"t1_s": 1.0, "sigma": 0.3, "kappa": 0.05}),
    (USL, "weak", (1, 2, 4, 8), (8,), usl(1.0, 0.3, 0.05, "weak"), {"t1_s": 1.0, "sigma": 0.3, "kappa": 0.05}),
    (
        ALPHA_BETA,
        "strong",
        (1, 2, 4),
        (16, 64),
        alpha_beta(0.01, 0.06, 1e9, 0.02),
        {"seconds_per_sample": 0.01, "fixed_s": 0.06, "beta_bytes_per_s": 1e9, "alpha_s": 0.02},
    ),
]
ON_A_BOUND = [
    (AMDAHL, "strong", (1, 2, 4), (64,), amdahl(1.0, 0.0), {"t1_s": 1.0, "serial_fraction": 0.0}),
    (USL, "strong", (1, 2, 4), (64,), usl(1.0, 0.0, 0.02), {"t1_s": 1.0, "sigma": 0.0, "kappa": 0.02}),
    (USL, "strong", (1, 2, 4), (64,), usl(1.0, 0.1, 0.0), {"t1_s": 1.0, "sigma": 0.1, "kappa": 0.0}),
    (
        ALPHA_BETA,
        "strong",
        (1, 2, 4),
        (16, 64),
        alpha_beta(0.01, 0.06, 1e9, 0.0),
        {"seconds_per_sample": 0.01, "fixed_s": 0.06, "beta_bytes_per_s": 1e9, "alpha_s": 0.0},
    ),
]
CASES = [(*case, True) for case in INSIDE] + [(*case, False) for case in ON_A_BOUND]


def coverage(
    law: Law,
    scaling: Scaling,
    devices: tuple[int, ...],
    batches: tuple[int, ...],
    time_of: TimeOf,
    truth: dict[str, float],
    repeats: int,
    trials: int = 500,
    noise: float = 0.03,
) -> dict[str, float]:
    """Return how often the intervals of the parameters, and of one further run at the next doubling, held the truth."""
    rng = np.random.default_rng(7)
    held = dict.fromkeys([*truth, "next doubling"], 0)
    n = 2 * devices[-1]
    batch = batches[0] * n if scaling == "weak" else batches[0]
    for _ in range(trials):
        cells = study(time_of, devices, batches, scaling=scaling, noise=noise, repeats=repeats, rng=rng)
        fit = estimate(law, cells, scaling)
        block = fit.blocks[0]
        for name, values in law.parameters(block.allowed).items():
            if name in truth:
                one = interval_of(values)
                low, high = one.low if one.low is not None else math.inf, one.high if one.high is not None else math.inf
                held[name] += low - 1e-9 <= truth[name] <= high + 1e-9
        step = further_run(fit.step_time_s(block, settings(n, batch, PAYLOAD_BYTES))[0], margin(fit.noise))
        run = time_of(n, batch) * math.exp(noise * rng.standard_normal())
        held["next doubling"] += (step.low or 0) <= run <= (step.high or math.inf)
    return {name: count / trials for name, count in held.items()}


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [3, 5])
@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case[0].name}-{len(case[2])}x-{'in' if case[6] else 'bound'}"
)
def test_intervals_cover_as_often_as_they_claim(
    case: tuple[Law, Scaling, tuple[int, ...], tuple[int, ...], TimeOf, dict[str, float], bool], repeats: int
) -> None:
    *described, is_inside = case
    measured = coverage(*described, repeats=repeats)  # type: ignore[call-arg, arg-type, misc]
    print(case[0].name, case[2], repeats, measured)
    assert min(measured.values()) >= 0.90, measured
    if is_inside:  # a part on its bound is never below it, so that its intervals may cover more often
        assert max(measured.values()) <= 0.995, measured


@pytest.mark.slow
@pytest.mark.parametrize(
    ("time_of", "scaling", "devices", "batches"),
    [
        (amdahl(1.0, 0.1), "strong", (1, 2, 4), (64,)),
        (usl(1.0, 0.1, 0.01), "strong", (1, 2, 4), (64,)),
        (usl(1.0, 0.3, 0.05), "strong", (1, 2, 4), (64,)),
        (gustafson(1.0, 0.1), "weak", (1, 2, 4), (8,)),
        (alpha_beta(0.01, 0.02, 1e9, 1e-3), "strong", (1, 2, 4), (32, 64)),
    ],
    ids=["amdahl", "usl-near-amdahl", "usl", "gustafson", "alpha-beta"],
)
def test_the_outlook_covers_though_the_law_had_to_be_chosen(
    time_of: TimeOf, scaling: Scaling, devices: tuple[int, ...], batches: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(11)
    held, trials = 0, 120
    for _ in range(trials):
        fits = fit_laws(study(time_of, devices, batches, scaling=scaling, noise=0.02, rng=rng), scaling)
        next_doubling = fits.outlook[0].doublings[0]
        run = time_of(next_doubling.devices, next_doubling.global_batch) * math.exp(0.02 * rng.standard_normal())
        held += (next_doubling.step_time_s.low or 0) <= run <= (next_doubling.step_time_s.high or math.inf)
    print(held / trials)
    assert held / trials >= 0.90
