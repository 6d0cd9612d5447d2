"""Which rank computes longer than the others, so that all wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from worldsize.measure.summary import timed
from worldsize.scaling.speedup import ratio
from worldsize.scaling.wording import percent
from worldsize.study.cells import MeasuredCell

SLOWER_BY = 0.10
"""Less is ordinary: cores, caches and samples are never quite equal. The interval must lie beyond half of it."""


def _compute_rounds(cell: MeasuredCell) -> list[list[list[float]]]:
    """Return compute seconds as rank → repeat → timed steps; from the runs' summaries where there are no step rows."""
    rounds: list[list[list[float]]] = [[] for _ in range(cell.world_size)]
    for run in cell.runs:
        rows = run.steps
        seconds = {rank: [r.phases_s.get("compute_s", 0.0) for r in timed(ranked)] for rank, ranked in rows.items()}
        for summary in run.result.ranks:
            fallback = [summary.phases_s.get("compute_s", 0.0)]
            rounds[summary.rank].append(seconds.get(summary.rank) or fallback)
    return rounds


def slow_ranks(cell: MeasuredCell) -> list[str]:
    """Return a sentence for each rank whose compute takes at least a tenth longer than the others', beyond the noise.

    Pipeline stages compute different things, so they are not compared.
    """
    if cell.world_size == 1 or any(run.record.layout.get("pp", 1) > 1 for run in cell.runs):
        return []
    rounds = _compute_rounds(cell)
    sentences = []
    for rank in _suspects(rounds):
        ours = rounds[rank]
        others = [rounds[other] for other in range(cell.world_size) if other != rank]
        theirs = [[median(steps) for steps in zip(*repeat, strict=False)] for repeat in zip(*others, strict=True)]
        if min(map(min, [*ours, *theirs])) <= 0:
            return []
        longer = ratio(ours, theirs, paired=True)
        if longer.median < 1 + SLOWER_BY or longer.low <= 1 + SLOWER_BY / 2:
            continue
        sentences.append(
            f"rank {rank} computes {percent(longer.median - 1)} longer than the others "
            f"({_ms(ours)} against {_ms(theirs)} a step, 95 % interval {percent(longer.low - 1)} to "
            f"{percent(longer.high - 1)}); they wait. Look for another program on its cores, a slower or hotter "
            f"device, or more work on that rank"
        )
    return sentences


def _suspects(rounds: Sequence[Sequence[Sequence[float]]]) -> list[int]:
    """Return the ranks whose median compute is beyond the threshold: the only ones worth an interval."""
    typical = [median([median(steps) for steps in repeats]) for repeats in rounds]
    suspects = []
    for rank, seconds in enumerate(typical):
        if seconds >= (1 + SLOWER_BY / 2) * median(typical[:rank] + typical[rank + 1 :]):
            suspects.append(rank)
    return suspects


def _ms(rounds: Sequence[Sequence[float]]) -> str:
    return f"{median([median(steps) for steps in rounds]) * 1e3:.1f} ms"
