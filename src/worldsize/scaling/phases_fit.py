"""The two halves of a step, fitted to the phases of a study: a rank's own work, and the communication that shows.

The model's formula and its symbols stand in `what_if`. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worldsize.errors import UserError
from worldsize.scaling.laws import Floats
from worldsize.scaling.regression import (
    Cells,
    Noise,
    best_weights,
    between,
    confidence_set,
    independent,
    margin,
    noise,
    solve,
    whitened,
)

BACKWARD_SHARE = 2 / 3  # of the work of one micro batch: backward costs about twice what forward does
LATENCY_SHARES = (0.0, 1.0, 0.5)  # tried when latency and link cannot be told apart; the last is the best guess


@dataclass(frozen=True)
class Place:
    """Where the model is evaluated."""

    devices: int
    per_device_batch: float  # samples
    num_micro: int
    payload_bytes: float
    link_factor: float = 1.0
    oversubscribed: float = 1.0  # ranks per device, when there are more ranks than devices


LOCAL_PARTS: dict[str, Callable[[Place], float]] = {
    "work per sample": lambda at: at.per_device_batch,
    "a fixed cost per step": lambda _at: 1.0,
    "contention between devices": lambda at: at.per_device_batch * math.log2(at.devices),
    "a fixed cost per micro batch": lambda at: float(at.num_micro),
}


@dataclass(frozen=True)
class Local:
    """Everything in a step but exposed communication. `allowed` is parts × M, the best set last."""

    parts: list[str]
    allowed: Floats
    noise: Noise
    assumptions: list[str]

    def seconds(self, at: Place) -> Floats:
        return np.asarray(at.oversubscribed * (np.array([LOCAL_PARTS[part](at) for part in self.parts]) @ self.allowed))

    def work_s(self, at: Place) -> Floats:
        """Return the part that grows with the samples: forward, backward and their contention."""
        by_sample = [
            LOCAL_PARTS[part](at) if part in ("work per sample", "contention between devices") else 0.0
            for part in self.parts
        ]
        return np.asarray(at.oversubscribed * (np.array(by_sample) @ self.allowed))


def fit_local(places: Sequence[Place], seconds: Sequence[Floats]) -> Local:
    """Fit a rank's own work, with as many parts as the cells can tell apart. Raises UserError on too few runs."""
    parts: list[str] = []
    for part in LOCAL_PARTS:
        column_sets = [[LOCAL_PARTS[name](at) for name in [*parts, part]] for at in places]
        if places and independent(np.array(column_sets)):
            parts.append(part)
    num_runs = sum(len(times) for times in seconds)
    if len(parts) < 2 or num_runs <= len(parts):
        raise UserError(
            f"too few points to ask what would be: {num_runs} runs at {len(places)} points. Needs two or more "
            "per-device batches and more than two runs: add a batch with --global-batch, or --repeats 3."
        )
    logs = [np.log(times) for times in seconds]
    cells = Cells(
        np.array([[LOCAL_PARTS[part](at) for part in parts] for at in places]),
        np.array([log.mean() for log in logs]),
        np.array([float(log.size) for log in logs]),
        float(sum(np.sum((log - log.mean()) ** 2) for log in logs)),
    )
    weights = best_weights(cells)
    scatter = noise(
        between(cells, weights),
        cells.within,
        num_runs=num_runs,
        num_cells=len(places),
        num_parameters=len(parts),
        num_free=int(np.count_nonzero(weights)),
    )
    said = [
        f"These cells cannot tell {part} from the rest: none is assumed." for part in LOCAL_PARTS if part not in parts
    ]
    if all(at.num_micro == 1 for at in places):
        said = [sentence for sentence in said if "micro batch" not in sentence]
        said.append("Only one micro batch per step was measured: a further one is assumed to cost its samples alone.")
    if "contention between devices" in parts:
        said.append("Each doubling of devices adds the same contention as those measured.")
    if scatter.is_misfit:
        said.append("The cells lie further from this model than repeats explain; the intervals are widened by as much.")
    return Local(parts, confidence_set(*whitened(cells, weights), margin(scatter)), scatter, said)


@dataclass(frozen=True)
class Exposed:
    """Communication that no compute hides. One set of weights (parts × M, the best last) for each latency share tried.

    Parts: exchange (or latency and link), waiting in proportion to the work, work that hides the exchange.
    """

    allowed: list[tuple[float | None, Floats]]  # latency share (None: latency and link are separate parts), weights
    reference: Place
    assumptions: list[str]

    def seconds(self, at: Place, work_s: float) -> Floats:
        sets = [_exposed_row(at, work_s, self.reference, share) @ weights for share, weights in self.allowed]
        return np.maximum(np.concatenate(sets), 0.0)


def _exposed_row(at: Place, work_s: float, reference: Place, latency_share: float | None) -> Floats:
    """Return the columns of exposed communication at one place; latency and link are 1 at the reference."""
    latency = (at.devices - 1) / (reference.devices - 1)
    bytes_on_link = (at.devices - 1) / at.devices * at.payload_bytes / at.link_factor
    reference_bytes = (reference.devices - 1) / reference.devices * reference.payload_bytes
    link = bytes_on_link / reference_bytes if reference_bytes > 0 else latency
    hidden = -BACKWARD_SHARE * work_s / at.num_micro
    if latency_share is None:
        return np.array([latency, link, work_s, hidden])
    return np.array([latency_share * latency + (1 - latency_share) * link, work_s, hidden])


def fit_exposed(
    places: Sequence[Place], exposed_s: Sequence[Floats], step_s: Sequence[Floats], work_s: Sequence[float]
) -> Exposed | None:
    """Fit exposed communication to cells of more than one device; None when none of it shows or runs are too few.

    Noise is that of the whole step: residuals are relative to the step time. Cells whose communication is hidden
    entirely say only that it fits under the compute, and are left out.
    """
    seen = [index for index in range(len(places)) if exposed_s[index].mean() > 0]
    if sum(len(exposed_s[index]) for index in seen) <= len(seen) + 1:
        return None
    reference = places[seen[0]]
    separate = independent(np.array([_exposed_row(places[i], 0.0, reference, None)[:2] for i in seen]))
    shares: tuple[float | None, ...] = (None,) if separate else LATENCY_SHARES
    allowed, is_misfit = [], False
    for share in shares:
        rows = np.array([_exposed_row(places[i], work_s[i], reference, share) for i in seen])
        rows[:, -2:] = _work_columns(rows)
        weights, scatter = _fit_rows(rows, [exposed_s[i] for i in seen], [float(step_s[i].mean()) for i in seen])
        is_misfit = is_misfit or scatter.is_misfit
        allowed.append((share, weights))
    said = _exposed_assumptions(separate, is_misfit, len(seen), len(places), rows)
    return Exposed(allowed, reference, said)


def _fit_rows(rows: Floats, seconds: Sequence[Floats], step_s: Sequence[float]) -> tuple[Floats, Noise]:
    """Return the confidence set and the scatter of a fit whose residuals are relative to the step time."""
    repeats = np.array([float(len(times)) for times in seconds])
    row_weight = np.sqrt(repeats) / np.array(step_s)
    design, targets = rows * row_weight[:, None], np.array([times.mean() for times in seconds]) * row_weight
    weights = solve(design, targets[:, None])[:, 0]
    scatter = noise(
        float(np.sum((targets - design @ weights) ** 2)),
        sum(float(np.sum(((times - times.mean()) / step) ** 2)) for times, step in zip(seconds, step_s, strict=True)),
        num_runs=int(repeats.sum()),
        num_cells=len(seconds),
        num_parameters=int(np.linalg.matrix_rank(rows / np.maximum(np.linalg.norm(rows, axis=0), 1e-300))),
        num_free=int(np.count_nonzero(weights)),
    )
    return confidence_set(design, targets, margin(scatter)), scatter


def _work_columns(rows: Floats) -> Floats:
    """Return the columns of waiting and hiding, or zeros where the cells cannot tell them from the exchange."""
    return rows[:, -2:] if independent(rows[:, :-1]) else np.zeros((len(rows), 2))


def _exposed_assumptions(separate: bool, misfit: bool, num_seen: int, num_cells: int, rows: Floats) -> list[str]:
    said = []
    if not separate:
        said.append(
            "Latency and link cannot be told apart here (it takes two numbers of devices above one): the interval "
            "spans all shares."
        )
    if not np.any(rows[:, -2:]):
        said.append(
            "Exposed communication is taken not to change with the batch: only one was measured on devices > 1."
        )
    if num_seen < num_cells:
        said.append(f"Communication of {num_cells - num_seen} cells was hidden under compute and tells nothing here.")
    if misfit:
        said.append("Exposed communication scatters more between cells than between repeats; intervals are widened.")
    return said


def run_margin(step_s: Sequence[Floats], fallback: Noise) -> float:
    """Return t × relative scatter of one run's step time, pooled over cells; from the fit when nothing was repeated."""
    freedom = sum(len(times) - 1 for times in step_s)
    if freedom == 0:
        return margin(fallback)
    squares = sum(float(np.sum((np.log(times) - np.log(times).mean()) ** 2)) for times in step_s)
    return margin(Noise(math.sqrt(squares / freedom), freedom, None))
