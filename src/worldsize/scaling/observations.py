"""What laws are fitted to: step times of repeats at some device counts and batches, checked. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldsize.errors import UserError
from worldsize.scaling.laws import Law, Scaling, Settings, settings
from worldsize.scaling.regression import Cells, independent


@dataclass(frozen=True)
class Observation:
    """One cell of a study. Raises UserError when a number in it cannot be what it stands for."""

    devices: int
    global_batch: int  # samples
    step_times_s: Sequence[float]  # one a repeat (each usually the median of a run)
    payload_bytes: float | None = None  # that one rank hands to the all-reduce in one step; None = not known
    series: str = ""  # same name = same model and settings, but for devices and batch

    def __post_init__(self) -> None:
        where = f"the cell at {self.devices} devices and global batch {self.global_batch}"
        if self.devices < 1 or self.global_batch < 1:
            raise UserError(f"{where}: devices and batch must be 1 or more. Correct or remove this cell.")
        if len(self.step_times_s) == 0:
            raise UserError(f"{where} has no step times. Give at least one, or remove this cell.")
        for repeat, time_s in enumerate(self.step_times_s):
            if not (math.isfinite(time_s) and time_s > 0):
                raise UserError(
                    f"{where}, repeat {repeat}: a step time of {time_s} s is not possible. "
                    "Step times are finite and above 0; correct or remove this repeat."
                )
        if self.payload_bytes is not None and not (math.isfinite(self.payload_bytes) and self.payload_bytes >= 0):
            raise UserError(f"{where}: a payload of {self.payload_bytes} bytes is not possible. Give 0 or more.")

    @property
    def per_device_batch(self) -> float:
        return self.global_batch / self.devices

    def curve(self, scaling: Scaling) -> tuple[str, float]:
        """Return what stays the same along a scaling curve: the series and the batch that is held fixed."""
        return self.series, float(self.global_batch if scaling == "strong" else self.per_device_batch)


def settings_of(observations: Sequence[Observation]) -> Settings:
    return settings(
        [o.devices for o in observations],
        [o.global_batch for o in observations],
        [o.payload_bytes or 0.0 for o in observations],
    )


def cells_of(law: Law, observations: Sequence[Observation], scaling: Scaling) -> Cells:
    """Return the regression's rows; for a law of the rate, those of 1 / T."""
    logs = [np.log(np.asarray(o.step_times_s, dtype=np.float64)) for o in observations]
    means = np.array([log.mean() for log in logs])
    return Cells(
        design=law.columns(settings_of(observations), scaling),
        log_mean=-means if law.of_rate else means,
        num_repeats=np.array([float(log.size) for log in logs]),
        within=float(sum(np.sum((log - log.mean()) ** 2) for log in logs)),
    )


def blocks_of(
    law: Law, observations: Sequence[Observation], scaling: Scaling
) -> dict[tuple[str, float], list[Observation]]:
    """Return the observations that share one set of the law's parameters: a curve, or a series over all its batches."""
    blocks: dict[tuple[str, float], list[Observation]] = {}
    for one in observations:
        key = (one.series, 0.0) if law.across_batches else one.curve(scaling)
        blocks.setdefault(key, []).append(one)
    return blocks


def too_few(law: Law, observations: Sequence[Observation], scaling: Scaling) -> str | None:
    """Return why this law cannot be fitted to these cells, or None when it can."""
    blocks = blocks_of(law, observations, scaling)
    for (series, batch), block in blocks.items():
        where = _where(series, batch, scaling)
        counts = sorted({o.devices for o in block})
        if law.across_batches and any(o.payload_bytes is None for o in block if o.devices > 1):
            return f"{law.title} needs the bytes of the gradient exchange{where}; they are not known."
        if not independent(law.columns(settings_of(block), scaling)):
            return (
                f"too few points for {law.title}: it needs {law.needs}{where}; measured: devices "
                f"{', '.join(map(str, counts))} with per-device batches "
                f"{', '.join(f'{b:g}' for b in sorted({o.per_device_batch for o in block}))}."
            )
    num_runs = sum(len(o.step_times_s) for o in observations)
    needed = len(blocks) * law.num_parameters + 3
    if num_runs < needed:
        return f"too few runs for {law.title}: it needs {needed} over these points, there are {num_runs}: add repeats."
    return None


def _where(series: str, batch: float, scaling: Scaling) -> str:
    held = f" at {'global' if scaling == 'strong' else 'per-device'} batch {batch:g}" if batch else ""
    return f"{held} of {series}" if series else held
