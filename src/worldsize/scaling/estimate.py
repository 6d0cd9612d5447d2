"""One law fitted to the cells of a study: its best parameters, all those that the data allow, and its evidence.

Torch-free. Numbers here are arrays; `fit` turns them into records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldsize.scaling.laws import Floats, Law, Scaling, Settings
from worldsize.scaling.observations import Observation, blocks_of, cells_of
from worldsize.scaling.regression import (
    SMALLEST_NOISE,
    Cells,
    Noise,
    best_weights,
    between,
    confidence_set,
    independent,
    margin,
    noise,
    whitened,
)


@dataclass(frozen=True)
class Block:
    """Cells that share one set of parameters. `allowed` samples the confidence set's rim, the best set last."""

    observations: list[Observation]
    cells: Cells
    weights: Floats  # parts
    allowed: Floats  # parts × M


@dataclass(frozen=True)
class Estimate:
    """A law and what a study says about it."""

    law: Law
    scaling: Scaling
    noise: Noise
    blocks: list[Block]

    @property
    def num_parameters(self) -> int:
        return len(self.blocks) * self.law.num_parameters

    @property
    def num_runs(self) -> int:
        return sum(block.cells.num_runs for block in self.blocks)

    def squared_residual(self) -> float:
        """Return the mean over runs of the squared distance of log step time from the law."""
        squares = sum(between(block.cells, block.weights) + block.cells.within for block in self.blocks)
        return max(squares / self.num_runs, SMALLEST_NOISE**2)

    def step_time_s(self, block: Block, at: Settings) -> Floats:
        """Return the law's step time in seconds (points × M) for every allowed set of parameters, the best last."""
        value = self.law.columns(at, self.scaling) @ block.allowed
        if not self.law.of_rate:
            return np.asarray(value)
        with np.errstate(divide="ignore"):
            return np.asarray(1 / value)

    def aicc(self) -> float:
        """Return Akaike's criterion, corrected for small samples, of log step times (Hurvich & Tsai 1989)."""
        k = self.num_parameters + 1  # the scatter is estimated as well
        return self.num_runs * math.log(self.squared_residual()) + 2 * k + 2 * k * (k + 1) / (self.num_runs - k - 1)

    def leave_one_out(self) -> float | None:
        """Return the root mean square relative error when each cell is predicted from the others, or None.

        None when some cell cannot be left out without losing a parameter.
        """
        errors = []
        for block in self.blocks:
            for row in range(len(block.cells.log_mean)):
                rest = block.cells.without(row)
                if not independent(rest.design):
                    return None
                predicted = float(block.cells.design[row] @ best_weights(rest))
                errors.append(float(block.cells.log_mean[row]) - math.log(max(predicted, 1e-300)))
        return float(np.sqrt(np.mean(np.square(errors))))


def estimate(law: Law, observations: Sequence[Observation], scaling: Scaling) -> Estimate:
    """Fit `law` to cells that suffice for it (`observations.too_few` says None). Scatter is pooled over all cells."""
    grouped = list(blocks_of(law, observations, scaling).values())
    cells = [cells_of(law, group, scaling) for group in grouped]
    weights = [best_weights(block) for block in cells]
    fitted = list(zip(cells, weights, strict=True))
    scatter = noise(
        across=sum(between(rows, best) for rows, best in fitted),
        within=sum(rows.within for rows in cells),
        num_runs=sum(rows.num_runs for rows in cells),
        num_cells=sum(len(rows.log_mean) for rows in cells),
        num_parameters=sum(len(best) for best in weights),
        num_free=sum(int(np.count_nonzero(best)) for best in weights),
    )
    blocks = [
        Block(group, rows, best, confidence_set(*whitened(rows, best), margin(scatter)))
        for group, (rows, best) in zip(grouped, fitted, strict=True)
    ]
    return Estimate(law, scaling, scatter, blocks)
