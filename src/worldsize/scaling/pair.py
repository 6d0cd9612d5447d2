"""A cell beside its baseline: what both have to do with each other, for whatever explains the cell."""

from __future__ import annotations

from dataclasses import dataclass

from worldsize.scaling.wording import percent
from worldsize.study.grid import Scaling
from worldsize.study.records import CellResult

EXPOSED = "exposed_communication_s"
GROWS_WITH_BATCH = ("data_wait_s", "host_to_device_s", "compute_s")
"""Phases that double when the batch doubles; the others are taken to stay as they are, per step."""


def is_sound(cell: CellResult) -> bool:
    """Tell whether the cell passed the same-work gate: only such cells may be fitted or set against each other."""
    if cell.is_baseline:
        return cell.step_time_s is not None and all(problem.severity != "blocks" for problem in cell.problems)
    return cell.efficiency is not None and not cell.overridden


@dataclass(frozen=True)
class Pair:
    """A measured cell and its measured baseline."""

    cell: CellResult
    baseline: CellResult
    scaling: Scaling

    @property
    def num_times_devices(self) -> float:
        return self.cell.world_size / self.baseline.world_size

    @property
    def divisor(self) -> float:
        """What the baseline's step time is ideally divided by."""
        return self.num_times_devices if self.scaling == "strong" else 1.0

    @property
    def step_s(self) -> float:
        """The cell's step time: the sum of its phases."""
        return sum(self.cell.phases_s.values())

    @property
    def ideal_s(self) -> float:
        """The step time without any loss: the baseline's share of it."""
        return sum(self.baseline.phases_s.values()) / self.divisor

    def efficiency(self, *, cell_change_s: float = 0.0, baseline_change_s: float = 0.0) -> float:
        """Return ideal / actual step time, now or after both step times change by so many seconds.

        A change is never reckoned to give more than the ideal: where phases say so, the baseline was measured slower
        than its share (on a busier core, say).
        """
        actual_s = self.step_s + cell_change_s
        if actual_s <= 0:
            return 0.0
        reckoned = (self.ideal_s + baseline_change_s / self.divisor) / actual_s
        return min(1.0, reckoned) if cell_change_s or baseline_change_s else reckoned

    def told(self, efficiency: float) -> str:
        """Write an efficiency as this scaling mode speaks of it."""
        if self.scaling == "weak":
            return f"{percent(efficiency)} efficiency"
        return f"{efficiency * self.num_times_devices:.2f}x"
