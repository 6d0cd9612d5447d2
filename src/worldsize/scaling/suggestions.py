"""What to try next, with what it should give: reckoned from the phases that this study measured, nothing else.

Each what-if changes the phases of a step in one stated way, for the baseline too where it is concerned, and gives the
efficiency that follows: ideal step time / step time, where the ideal is the baseline's step time divided by the added
devices (strong scaling) or the baseline's step time itself (weak scaling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from worldsize.scaling.wording import percent, time_text
from worldsize.study.files import Run
from worldsize.study.grid import Scaling
from worldsize.study.records import CellResult

WORTH = 0.02
"""A change that gives less than this is not listed."""
GROWS_WITH_BATCH = ("data_wait_s", "host_to_device_s", "compute_s")
"""Phases that double when the batch doubles; the others are taken to stay as they are, per step."""


@dataclass(frozen=True)
class Pair:
    """A cell and its baseline."""

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

    def efficiency(self, *, cell_change_s: float = 0.0, baseline_change_s: float = 0.0) -> float:
        """Return ideal / actual step time, now or after both step times change by so many seconds.

        A change is never reckoned to give more than the ideal: where phases say so, the baseline was measured slower
        than its share (on a busier core, say).
        """
        actual_s = sum(self.cell.phases_s.values()) + cell_change_s
        if actual_s <= 0:
            return 0.0
        reckoned = (sum(self.baseline.phases_s.values()) + baseline_change_s) / self.divisor / actual_s
        return min(1.0, reckoned) if cell_change_s or baseline_change_s else reckoned

    def told(self, efficiency: float) -> str:
        """Write an efficiency as this scaling mode speaks of it."""
        if self.scaling == "weak":
            return f"{percent(efficiency)} efficiency"
        return f"{efficiency * self.num_times_devices:.2f}x"


@dataclass(frozen=True)
class WhatIf:
    """One change and the efficiency it should give."""

    efficiency: float
    sentence: str


def suggestions(pair: Pair, cells: Sequence[CellResult], runs: Sequence[Run]) -> list[str]:
    """Return what to try for this cell, best first; a change that the study has measured comes before all reckoning."""
    measured = _measured_doubling(pair, cells)
    reckoned = [
        *([] if measured else _double_batch(pair, cells)),
        *_even_ranks(pair, runs),
        *_halve_exchange(pair, runs),
        *_hide_exchange(pair, runs),
        *_divide_update(pair),
        *_hide_data_wait(pair),
    ]
    now = pair.efficiency()
    worthwhile = [what_if for what_if in reckoned if what_if.efficiency > now * (1 + WORTH)]
    worthwhile.sort(key=lambda what_if: -what_if.efficiency)
    return measured + [what_if.sentence for what_if in worthwhile]


def doubled_batch(pair: Pair) -> float:
    """Return the efficiency after the batch doubles: GROWS_WITH_BATCH double, the other phases stay per step."""
    more_s = [sum(each.phases_s.get(name, 0.0) for name in GROWS_WITH_BATCH) for each in (pair.cell, pair.baseline)]
    return pair.efficiency(cell_change_s=more_s[0], baseline_change_s=more_s[1])


def _with_batch(pair: Pair, cells: Sequence[CellResult], factor: float) -> CellResult | None:
    """Return the measured, comparable cell that differs only by `factor` in its batch."""
    for cell in cells:
        same = cell.world_size == pair.cell.world_size and cell.vary == pair.cell.vary
        if same and cell.global_batch == pair.cell.global_batch * factor and cell.efficiency and not cell.overridden:
            return cell
    return None


def _measured_doubling(pair: Pair, cells: Sequence[CellResult]) -> list[str]:
    double = _with_batch(pair, cells, 2)
    if double is None or double.efficiency is None:
        return []
    gave, reckoned = pair.told(double.efficiency.median), pair.told(doubled_batch(pair))
    return [
        f"Doubling the batch was measured in this study: a global batch of {double.global_batch} gives {gave} "
        f"(the phases at {pair.cell.global_batch} lead one to expect {reckoned})."
    ]


def _double_batch(pair: Pair, cells: Sequence[CellResult]) -> list[WhatIf]:
    efficiency = doubled_batch(pair)
    checked = ""
    half = _with_batch(pair, cells, 0.5)
    base = next((cell for cell in cells if half and cell.name == half.baseline), None)
    if half and base and pair.cell.efficiency:
        expected = pair.told(doubled_batch(Pair(half, base, pair.scaling)))
        checked = (
            f" The same reckoning from {half.global_batch} to {pair.cell.global_batch} gave {expected}; "
            f"measured: {pair.told(pair.cell.efficiency.median)}."
        )
    return [
        WhatIf(
            efficiency,
            f"Doubling the global batch to {pair.cell.global_batch * 2} should give {pair.told(efficiency)}, if "
            f"compute doubles and exposed communication and the optimizer take as long a step as now. Loss per token "
            f"changes with the batch: compare it.{checked}",
        )
    ]


def _even_ranks(pair: Pair, runs: Sequence[Run]) -> list[WhatIf]:
    if not _has_slow_rank(pair):
        return []
    excess_s = median(_excess_compute_s(run) for run in runs)
    efficiency = pair.efficiency(cell_change_s=-excess_s)
    return [
        WhatIf(
            efficiency,
            f"Bringing the slow rank level with the others should give {pair.told(efficiency)}: it computes "
            f"{time_text(excess_s)} longer a step, and all wait.",
        )
    ]


def _has_slow_rank(pair: Pair) -> bool:
    return any(problem.rule == "slow-rank" for problem in pair.cell.problems)


def _excess_compute_s(run: Run) -> float:
    """Return how much longer than the others' median the slowest rank computes in a step."""
    compute_s = sorted(rank.phases_s.get("compute_s", 0.0) for rank in run.result.ranks)
    return compute_s[-1] - median(compute_s[:-1])


def _exchange_s(pair: Pair, runs: Sequence[Run]) -> float:
    """Return exposed communication without the time in which ranks only wait for a slow one, mean over ranks."""
    exposed_s = pair.cell.phases_s.get("exposed_communication_s", 0.0)
    if not _has_slow_rank(pair):
        return exposed_s
    num_ranks = pair.cell.world_size
    waiting_s = median(_excess_compute_s(run) for run in runs) * (num_ranks - 1) / num_ranks
    return max(0.0, exposed_s - waiting_s)


def _halve_exchange(pair: Pair, runs: Sequence[Run]) -> list[WhatIf]:
    efficiency = pair.efficiency(cell_change_s=-_exchange_s(pair, runs) / 2)
    return [
        WhatIf(
            efficiency,
            f"Exchanging gradients in bf16 should give {pair.told(efficiency)}, if exposed communication halves with "
            f"the bytes (it does not where ranks wait for each other). It rounds gradients: compare the loss.",
        )
    ]


def _hide_exchange(pair: Pair, runs: Sequence[Run]) -> list[WhatIf]:
    efficiency = pair.efficiency(cell_change_s=-_exchange_s(pair, runs))
    return [
        WhatIf(
            efficiency,
            f"Overlapping the exchange better (parallel.bucket_mib, more accumulation) can give at most "
            f"{pair.told(efficiency)}: all {time_text(_exchange_s(pair, runs))} of the exchange hidden.",
        )
    ]


def _divide_update(pair: Pair) -> list[WhatIf]:
    if pair.cell.strategy != "ddp":
        return []
    saved_s = pair.cell.phases_s.get("optimizer_s", 0.0) * (1 - 1 / pair.cell.world_size)
    efficiency = pair.efficiency(cell_change_s=-saved_s)
    return [
        WhatIf(
            efficiency,
            f"Dividing the optimizer's update among the devices (ZeRO stage 1) can give at most "
            f"{pair.told(efficiency)}: each now updates all weights; gathering them again would cost some of it.",
        )
    ]


def _hide_data_wait(pair: Pair) -> list[WhatIf]:
    waits_s = [each.phases_s.get("data_wait_s", 0.0) for each in (pair.cell, pair.baseline)]
    efficiency = pair.efficiency(cell_change_s=-waits_s[0], baseline_change_s=-waits_s[1])
    return [
        WhatIf(
            efficiency,
            f"Preparing batches ahead of time should give {pair.told(efficiency)}: {time_text(waits_s[0])} of each "
            f"step waits for data.",
        )
    ]
