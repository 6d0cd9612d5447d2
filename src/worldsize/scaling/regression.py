"""Least squares in log time for sums of non-negative parts, and the set of parts that the data allow.

Step times scatter by a percentage, so runs of one cell are summarised by their geometric mean and residuals are
relative. Parts (seconds of work, of latency …) cannot be negative. The uncertainty is the set of parts whose residual
is not worse than the best by more than noise explains, with Student's t because the noise itself is known from few
repeats; intervals are the range of a quantity over that set (profile likelihood). Without bounds these are the exact t
intervals; they keep covering where the truth lies on a bound. (A percentile bootstrap of three repeats covers far
less than it claims: docs/explain/fits.md.) Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from scipy.special import fdtrc, stdtrit

from worldsize.scaling.laws import Floats

CONFIDENCE = 0.95
NUM_REWEIGHTINGS = 3
MISFIT_LEVEL = 0.01
SMALLEST_NOISE = 1e-9  # relative; below it, times are equal but for rounding
INDEPENDENT_ABOVE = 1e-6  # singular value of the columns (scaled to length 1) over the greatest


def solve(design: Floats, targets: Floats) -> Floats:
    """Return the weights (parts × T) >= 0 that fit each column of `targets` (rows × T) best, by least squares.

    Every set of parts that may be above zero is solved in closed form and the best feasible one kept, so that
    thousands of targets share the work. For at most 5 parts or so.
    """
    num_parts, num_targets = design.shape[1], targets.shape[1]
    scale = np.linalg.norm(design, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    best = np.zeros((num_parts, num_targets))
    best_loss = np.sum(targets**2, axis=0)
    for size in range(1, num_parts + 1):
        for parts in map(list, combinations(range(num_parts), size)):
            columns = design[:, parts] / scale[parts]
            weights = np.linalg.pinv(columns) @ targets
            loss = np.sum((targets - columns @ weights) ** 2, axis=0)
            better = np.all(weights >= 0, axis=0) & (loss < best_loss)
            best_loss = np.where(better, loss, best_loss)
            candidate = np.zeros((num_parts, num_targets))
            candidate[parts] = weights / scale[parts][:, None]
            best = np.where(better, candidate, best)
    return best


def independent(design: Floats) -> bool:
    """Tell whether the rows determine every part: no column is a mixture of the others."""
    norms = np.linalg.norm(design, axis=0)
    if design.shape[0] < design.shape[1] or not np.all(norms > 0):
        return False
    singular = np.linalg.svd(design / norms, compute_uv=False)
    return bool(singular[-1] > INDEPENDENT_ABOVE * singular[0])


@dataclass(frozen=True)
class Cells:
    """Repeats of one quantity at K points: rows of the design and what was measured there, all positive."""

    design: Floats  # K × parts
    log_mean: Floats  # K: mean of the logarithms
    num_repeats: Floats  # K
    within: float  # sum over all repeats of the squared distance from their cell's log_mean

    @property
    def num_runs(self) -> int:
        return int(self.num_repeats.sum())

    def without(self, row: int) -> Cells:
        """Return the cells but one; `within` is not used by what leaves one out."""
        keep = np.arange(len(self.log_mean)) != row
        return Cells(self.design[keep], self.log_mean[keep], self.num_repeats[keep], self.within)


def best_weights(cells: Cells) -> Floats:
    """Return the weights with the least squared relative residual, rows weighted by their number of repeats."""
    target = np.exp(cells.log_mean)
    expected = target
    weights = np.zeros(cells.design.shape[1])
    for _ in range(NUM_REWEIGHTINGS):
        row_weight = np.sqrt(cells.num_repeats) / expected
        weights = solve(cells.design * row_weight[:, None], (target * row_weight)[:, None])[:, 0]
        expected = np.maximum(cells.design @ weights, 1e-3 * target)
    return weights


def between(cells: Cells, weights: Floats) -> float:
    """Return the sum over all repeats of the squared log distance between their cell's mean and the law."""
    expected = np.maximum(cells.design @ weights, 1e-12 * np.exp(cells.log_mean))
    return float(np.sum(cells.num_repeats * (cells.log_mean - np.log(expected)) ** 2))


@dataclass(frozen=True)
class Noise:
    """Relative scatter of one run about the law: its estimate, the degrees of freedom behind it, and the misfit."""

    sd: float
    degrees_of_freedom: int
    misfit_p: float | None  # chance of so much scatter of the means about the law, were repeats the only noise

    @property
    def is_misfit(self) -> bool:
        return self.misfit_p is not None and self.misfit_p < MISFIT_LEVEL


def noise(across: float, within: float, *, num_runs: int, num_cells: int, num_parameters: int, num_free: int) -> Noise:
    """Return the scatter of runs about a fit, from squared distances of means from the fit and of repeats from means.

    `across` is summed over all repeats, `num_free` counts the parameters that are not on their bound. When means
    scatter about the fit far more than repeats do (F test of lack of fit), the repeats' scatter says nothing of how
    wrong the fit is, and the means' own scatter, with its few degrees of freedom, is used instead.
    Raises ValueError when there are not more runs than parameters.
    """
    freedom = num_runs - num_parameters
    if freedom < 1:
        raise ValueError(f"{num_runs} runs cannot tell {num_parameters} parameters from noise")
    misfit_freedom = num_cells - num_free
    misfit_p = None
    if misfit_freedom > 0 and num_runs > num_cells:
        floor = SMALLEST_NOISE**2
        ratio = (across / misfit_freedom + floor) / (within / (num_runs - num_cells) + floor)
        misfit_p = float(fdtrc(misfit_freedom, num_runs - num_cells, ratio))
        if misfit_p < MISFIT_LEVEL:
            return Noise(float(np.sqrt(across / misfit_freedom)), misfit_freedom, misfit_p)
    return Noise(max(float(np.sqrt((across + within) / freedom)), SMALLEST_NOISE), freedom, misfit_p)


def margin(estimate: Noise) -> float:
    """Return t sd: how far from the best fit, in relative noise of one run, the interval still reaches."""
    tail = (1 - CONFIDENCE) / 2
    return float(stdtrit(estimate.degrees_of_freedom, 1 - tail)) * estimate.sd


def whitened(cells: Cells, weights: Floats) -> tuple[Floats, Floats]:
    """Return design and targets divided by the scatter of their rows: residuals are then in units of one run's sd."""
    target = np.exp(cells.log_mean)
    row_weight = np.sqrt(cells.num_repeats) / np.maximum(cells.design @ weights, 1e-3 * target)
    return cells.design * row_weight[:, None], target * row_weight


def confidence_set(design: Floats, targets: Floats, reach: float) -> Floats:
    """Return weights (parts × M) on the rim of {weights >= 0: residual² <= least residual² + reach²}.

    The smallest and greatest value that any quantity takes on the set are the ends of its profile-likelihood interval
    (Venzon & Moolgavkar 1988); a quantity that rises or falls along every line takes them on the rim: where the
    ellipsoid meets the inside of a face of the orthant. Each face's ellipsoid is sampled in fixed directions.
    `design` and `targets` are whitened. The last column is the best fit.
    """
    best = solve(design, targets[:, None])
    limit = float(np.sum((targets - (design @ best)[:, 0]) ** 2)) + reach**2
    num_parts = design.shape[1]
    rims = []
    for size in range(1, num_parts + 1):
        for parts in map(list, combinations(range(num_parts), size)):
            columns = design[:, parts]
            orthonormal, triangle = np.linalg.qr(columns)
            if size > len(design) or np.any(abs(np.diag(triangle)) <= 1e-9 * np.linalg.norm(columns, axis=0)):
                continue  # columns that are mixtures of each other: the smaller faces hold all that they say
            center = orthonormal.T @ targets
            gap = limit - float(np.sum((targets - orthonormal @ center) ** 2))
            if gap < 0:
                continue
            rim = np.zeros((num_parts, directions(size).shape[1]))
            rim[parts] = np.linalg.solve(triangle, center[:, None] + np.sqrt(gap) * directions(size))
            rims.append(rim[:, np.all(rim >= 0, axis=0)])
    return np.concatenate([*rims, best], axis=1)


@cache
def directions(size: int) -> Floats:
    """Return unit vectors (size × M) that cover the sphere so densely that an interval's end is off by under 1 %."""
    if size == 1:
        return np.array([[-1.0, 1.0]])
    if size == 2:
        angle = np.linspace(0, 2 * np.pi, 181)[:-1]
        return np.stack([np.cos(angle), np.sin(angle)])
    vectors = np.random.default_rng(0).standard_normal((size, 1000 if size == 3 else 4000))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=0))
