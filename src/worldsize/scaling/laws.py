"""The scaling laws that a study is held against: what each says, in which unit, and where it comes from.

Each law stands here twice: as a small frozen dataclass with known parameters, and in `LAWS` as a `Law`, the same
formula written as a sum of parts with non-negative weights, the form in which `fit` finds the parameters. (Gustafson's
law is such a sum for the rate 1 / T instead of for the time T.) Torch-free.

n is the number of devices, T(n) the time of one step in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Scaling = Literal["strong", "weak"]


@dataclass(frozen=True)
class Amdahl:
    """Strong scaling with a part that no device can share: T(n) = T1 (s + (1 - s) / n). Speedup never passes 1 / s.

    G. Amdahl, Validity of the single processor approach to achieving large scale computing capabilities, AFIPS 1967.
    """

    t1_s: float  # > 0: step time on one device
    serial_fraction: float  # 0 to 1: share of t1_s that more devices do not shorten

    def time_s(self, devices: ArrayLike) -> Floats:
        n = np.asarray(devices, dtype=np.float64)
        return self.t1_s * (self.serial_fraction + (1 - self.serial_fraction) / n)


@dataclass(frozen=True)
class Gustafson:
    """Weak scaling: n devices do S(n) = n - s (n - 1) devices' worth of work in the time that one takes for its own.

    S is read as a ratio of rates, so the step that processes n times the samples takes T(n) = T1 n / S(n).
    J. Gustafson, Reevaluating Amdahl's law, Communications of the ACM 31(5), 1988.
    """

    t1_s: float  # > 0: step time on one device
    serial_fraction: float  # 0 to 1: share of each added device that is lost

    def scaled_speedup(self, devices: ArrayLike) -> Floats:
        n = np.asarray(devices, dtype=np.float64)
        return n - self.serial_fraction * (n - 1)

    def time_s(self, devices: ArrayLike) -> Floats:
        return self.t1_s * np.asarray(devices, dtype=np.float64) / self.scaled_speedup(devices)


@dataclass(frozen=True)
class UniversalScalability:
    """Relative rate C(n) = n / (1 + σ (n - 1) + κ n (n - 1)): queueing (σ) and pairwise exchange (κ).

    T(n) = T1 / C(n) for fixed work (strong scaling), T1 n / C(n) when the work grows with n (weak scaling).
    N. Gunther, Guerrilla Capacity Planning, Springer 2007, ch. 4.
    """

    t1_s: float  # > 0: step time on one device
    sigma: float  # >= 0: contention, per added device
    kappa: float  # >= 0: coherency, per pair of devices; above 0 the rate has a peak

    def relative_rate(self, devices: ArrayLike) -> Floats:
        n = np.asarray(devices, dtype=np.float64)
        return n / (1 + self.sigma * (n - 1) + self.kappa * n * (n - 1))

    def time_s(self, devices: ArrayLike, scaling: Scaling = "strong") -> Floats:
        work = np.asarray(devices, dtype=np.float64) if scaling == "weak" else 1.0
        return self.t1_s * work / self.relative_rate(devices)


@dataclass(frozen=True)
class AlphaBeta:
    """Work per device, a fixed cost, and a ring all-reduce of the gradients that nothing hides.

    T(n, B) = seconds_per_sample B / n + fixed_s + 2 (n - 1) / n payload_bytes / beta_bytes_per_s + 2 (n - 1) alpha_s
    The ring's cost: R. Thakur, R. Rabenseifner, W. Gropp, Optimization of collective communication operations in
    MPICH, Int. J. High Performance Computing Applications 19(1), 2005, section on all-reduce.
    """

    seconds_per_sample: float  # >= 0
    fixed_s: float  # >= 0: per step, whatever the batch and the number of devices (optimizer, launches)
    beta_bytes_per_s: float  # > 0: bytes per second of one link; inf when the link costs nothing
    alpha_s: float  # >= 0: latency of one hop, all collectives of a step together

    def time_s(self, devices: ArrayLike, global_batch: ArrayLike, payload_bytes: ArrayLike) -> Floats:
        n = np.asarray(devices, dtype=np.float64)
        work = self.seconds_per_sample * np.asarray(global_batch, dtype=np.float64) / n
        link = 2 * (n - 1) / n * np.asarray(payload_bytes, dtype=np.float64) / self.beta_bytes_per_s
        return work + self.fixed_s + link + 2 * (n - 1) * self.alpha_s


@dataclass(frozen=True)
class Settings:
    """Points at which a law is evaluated: arrays of one length."""

    devices: Floats
    global_batch: Floats
    payload_bytes: Floats  # that one rank hands to the all-reduce in one step; unused at one device

    def take(self, which: NDArray[np.bool_]) -> Settings:
        return Settings(self.devices[which], self.global_batch[which], self.payload_bytes[which])


def settings(devices: ArrayLike, global_batch: ArrayLike = 1.0, payload_bytes: ArrayLike = 0.0) -> Settings:
    """Return the settings with every argument broadcast to the same length, as float64."""
    arrays = [np.atleast_1d(np.asarray(a, dtype=np.float64)) for a in (devices, global_batch, payload_bytes)]
    return Settings(*(np.array(a) for a in np.broadcast_arrays(*arrays)))


@dataclass(frozen=True)
class Law:
    """A law as a sum of parts: T = columns @ weights (1 / T when `of_rate`), all weights >= 0.

    `parameters` turns weights (rows; any number of columns) into the law's own parameters, and what follows from them.
    """

    name: str
    title: str
    formula: str
    source: str
    scalings: tuple[Scaling, ...]
    num_parameters: int
    needs: str  # the least that identifies it, for people
    columns: Callable[[Settings, Scaling], Floats]
    parameters: Callable[[Floats], dict[str, Floats]]
    of_rate: bool = False
    across_batches: bool = False  # one set of parameters for all batches, instead of one for each


def _amdahl_columns(at: Settings, _scaling: Scaling) -> Floats:
    return np.stack([np.ones_like(at.devices), 1 / at.devices], axis=-1)


def _amdahl_parameters(weights: Floats) -> dict[str, Floats]:
    t1_s = weights[0] + weights[1]
    return {"t1_s": t1_s, "serial_fraction": _ratio(weights[0], t1_s), "greatest_speedup": _ratio(t1_s, weights[0])}


def _gustafson_parameters(weights: Floats) -> dict[str, Floats]:
    # 1 / T = rate1 (1 - s) + rate1 s / n
    rate1 = weights[0] + weights[1]
    return {"t1_s": _ratio(np.ones_like(rate1), rate1), "serial_fraction": _ratio(weights[1], rate1)}


def _usl_columns(at: Settings, scaling: Scaling) -> Floats:
    n = at.devices
    work = n if scaling == "weak" else np.ones_like(n)
    return np.stack([work / n, work * (n - 1) / n, work * (n - 1)], axis=-1)


def _usl_parameters(weights: Floats) -> dict[str, Floats]:
    sigma, kappa = _ratio(weights[1], weights[0]), _ratio(weights[2], weights[0])
    peak = np.sqrt(_ratio(np.maximum(1 - sigma, 0), kappa))
    return {"t1_s": weights[0], "sigma": sigma, "kappa": kappa, "devices_at_greatest_rate": np.maximum(peak, 1)}


def _alpha_beta_columns(at: Settings, _scaling: Scaling) -> Floats:
    n = at.devices
    link = 2 * (n - 1) / n * at.payload_bytes
    return np.stack([at.global_batch / n, np.ones_like(n), link, 2 * (n - 1)], axis=-1)


def _alpha_beta_parameters(weights: Floats) -> dict[str, Floats]:
    beta = _ratio(np.ones_like(weights[2]), weights[2])
    return {
        "seconds_per_sample": weights[0],
        "fixed_s": weights[1],
        "beta_bytes_per_s": beta,
        "alpha_s": weights[3],
    }


def _ratio(above: Floats, below: Floats) -> Floats:
    """Divide; what is divided by zero is infinite (no limit, no peak, no cost), and 0 / 0 too."""
    with np.errstate(all="ignore"):
        return np.asarray(np.where(below > 0, above / below, np.inf))


AMDAHL = Law(
    "amdahl",
    "Amdahl's law",
    "T(n) = T1 (s + (1 - s) / n)",
    "Amdahl 1967",
    ("strong",),
    2,
    "2 device counts",
    _amdahl_columns,
    _amdahl_parameters,
)
GUSTAFSON = Law(
    "gustafson",
    "Gustafson's law",
    "T(n) = T1 n / (n - s (n - 1))",
    "Gustafson 1988",
    ("weak",),
    2,
    "2 device counts",
    _amdahl_columns,
    _gustafson_parameters,
    of_rate=True,
)
USL = Law(
    "usl",
    "the universal scalability law",
    "C(n) = n / (1 + σ (n - 1) + κ n (n - 1))",
    "Gunther 2007",
    ("strong", "weak"),
    3,
    "3 device counts",
    _usl_columns,
    _usl_parameters,
)
ALPHA_BETA = Law(
    "alpha-beta",
    "the α–β model of the ring all-reduce",
    "T(n, B) = c B / n + fixed + 2 (n - 1) / n bytes / β + 2 (n - 1) α",
    "Thakur et al. 2005",
    ("strong", "weak"),
    4,
    "3 device counts, 2 per-device batches at one device count, and the bytes of the gradient exchange",
    _alpha_beta_columns,
    _alpha_beta_parameters,
    across_batches=True,
)
LAWS = (AMDAHL, GUSTAFSON, USL, ALPHA_BETA)
