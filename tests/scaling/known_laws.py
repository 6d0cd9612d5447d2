"""Studies made from known laws, with multiplicative noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from worldsize.scaling.laws import AlphaBeta, Amdahl, Gustafson, Scaling, UniversalScalability
from worldsize.scaling.observations import Observation

PAYLOAD_BYTES = 1e8
TimeOf = Callable[[int, int], float]  # devices, global batch → seconds


def study(
    time_s: TimeOf,
    devices: tuple[int, ...],
    batches: tuple[int, ...] = (64,),
    *,
    scaling: Scaling = "strong",
    noise: float = 0.0,
    repeats: int = 3,
    rng: np.random.Generator | None = None,
) -> list[Observation]:
    """Cells of a known law; under weak scaling `batches` are per device."""
    rng = rng or np.random.default_rng(0)
    cells = []
    for batch in batches:
        for n in devices:
            global_batch = batch * n if scaling == "weak" else batch
            factors = np.exp(noise * rng.standard_normal(repeats))
            times = tuple(float(time_s(n, global_batch) * factor) for factor in factors)
            cells.append(Observation(n, global_batch, times, PAYLOAD_BYTES))
    return cells


def amdahl(t1_s: float, serial: float) -> TimeOf:
    return lambda n, _batch: float(Amdahl(t1_s, serial).time_s(n))


def gustafson(t1_s: float, serial: float) -> TimeOf:
    return lambda n, _batch: float(Gustafson(t1_s, serial).time_s(n))


def usl(t1_s: float, sigma: float, kappa: float, scaling: Scaling = "strong") -> TimeOf:
    return lambda n, _batch: float(UniversalScalability(t1_s, sigma, kappa).time_s(n, scaling))


def alpha_beta(per_sample: float, fixed: float, beta: float, alpha: float) -> TimeOf:
    return lambda n, batch: float(AlphaBeta(per_sample, fixed, beta, alpha).time_s(n, batch, PAYLOAD_BYTES))
