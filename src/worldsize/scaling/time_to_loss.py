"""How long each cell trains until it reaches one loss, and which loss each has after equally many tokens.

Losses are smoothed by the mean of the last few steps. A step counts with the cell's step time, so that start-up,
compilation and evaluations are left out. Definitions and limits: docs/explain/time-to-loss.md. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from worldsize.scaling.laws import Floats
from worldsize.scaling.pair import Pair, is_sound
from worldsize.scaling.questions import Runs
from worldsize.scaling.speedup import scaled
from worldsize.scaling.wording import devices, time_interval
from worldsize.study.files import Run
from worldsize.study.records import CellResult, EqualTokens, TimeToLoss

WINDOW = 5
"""Steps whose losses are averaged; shorter runs average all they have."""


def smoothed(losses: Sequence[float]) -> Floats:
    """Return for each step from the WINDOWth on the mean of the last WINDOW losses; index 0 is after WINDOW steps."""
    values = np.asarray(losses, dtype=np.float64)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, min(WINDOW, len(values))).mean(axis=1))


def add_times_to_loss(cells: Sequence[CellResult], runs: Runs, target_loss: float | None = None) -> None:
    """Fill in `time_to_loss` and `equal_tokens` of all cells that passed the same-work gate.

    Cells of the same data share one target: `target_loss`, or the smallest smoothed loss that all of them reach.
    """
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        if is_sound(cell) and runs[cell.name]:
            data = {key: value for key, value in cell.vary.items() if key.startswith("data.")}
            groups.setdefault(repr(sorted(data.items())), []).append(cell)
    for group in groups.values():
        _add(group, {cell.name: runs[cell.name][0] for cell in group}, target_loss)


def _add(cells: Sequence[CellResult], first: Mapping[str, Run], target_loss: float | None) -> None:
    curves = {cell.name: smoothed(first[cell.name].result.losses) for cell in cells}
    target = target_loss if target_loss is not None else max(float(curve.min()) for curve in curves.values())
    fewest = min(first[cell.name].result.num_tokens for cell in cells)
    for cell in cells:
        result, curve = first[cell.name].result, curves[cell.name]
        window = result.num_steps - len(curve) + 1
        reached = np.flatnonzero(curve <= target)
        if reached.size:
            cell.time_to_loss = _time(cell, target, int(reached[0]) + window, result.num_tokens / result.num_steps)
        step = min(max(fewest * result.num_steps // result.num_tokens, window), result.num_steps)
        cell.equal_tokens = EqualTokens(tokens=fewest, loss=float(curve[step - window]))


def _time(cell: CellResult, target: float, steps: int, tokens_per_step: float) -> TimeToLoss:
    assert cell.step_time_s is not None
    seconds = scaled(cell.step_time_s, steps)
    return TimeToLoss(target=target, steps=steps, tokens=round(steps * tokens_per_step), seconds=seconds)


def sentences(pair: Pair) -> list[str]:
    """Return loss at equal tokens where the pair's batches or maths differ, and the times to the study's loss."""
    return [*_equal_tokens(pair), *_times(pair)]


def _equal_tokens(pair: Pair) -> list[str]:
    ours, theirs = pair.cell.equal_tokens, pair.baseline.equal_tokens
    if ours is None or theirs is None:
        return []
    if pair.cell.other_maths:
        return [
            f"Loss at equal tokens ({ours.tokens:,}): {ours.loss:.3f} under {pair.cell.strategy}, {theirs.loss:.3f} "
            f"under {pair.baseline.strategy}."
        ]
    if pair.cell.global_batch == pair.baseline.global_batch:
        return []
    return [
        f"Loss at equal tokens ({ours.tokens:,}): {ours.loss:.3f} at a global batch of {pair.cell.global_batch}, "
        f"{theirs.loss:.3f} at {pair.baseline.global_batch}."
    ]


def _times(pair: Pair) -> list[str]:
    both = [(cell, cell.time_to_loss) for cell in (pair.baseline, pair.cell)]
    target = next((time.target for _, time in both if time), None)
    if target is None:
        return []
    told = [
        f"{devices(cell.world_size)} {time_interval(time.seconds)}, {time.steps} steps"
        if time
        else f"{devices(cell.world_size)} never"
        for cell, time in both
    ]
    return [f"Time to a loss of {target:.3f} (mean of {WINDOW} steps): {'; '.join(told)}."]
