"""Where the time went that an ideal division over the devices would have saved.

With T1 on the fewest devices (b of them) and Tn on n: ideal = T1 × b/n; lost = Tn − ideal. Of the lost time,
communication is what was reported as such; compute excess is compute on n devices beyond its ideal share,
compute_n − compute_1 × b/n, where compute was reported; the rest is what nobody timed apart. Where compute was not
reported, compute excess and the rest cannot be told apart, and the rest is an upper bound of it. The parts are as
reported: communication that overlaps compute costs nothing, and makes its share too large.
"""

from __future__ import annotations

from worldsize.audit.pairs import Pair
from worldsize.audit.records import LostTime
from worldsize.audit.text import seconds_text
from worldsize.scaling.wording import percent

WORTH_TELLING = 0.02
"""Less than this share of the time lost is no loss that could be split."""


def lost_time(pair: Pair) -> LostTime | None:
    """Return the split, or None where no communication was reported or no time was lost."""
    communication_s = pair.point.median(lambda row: row.communication_s)
    if pair.base.devices == 1 and pair.base.row.communication_s:  # then it is not communication that was timed
        return None
    ideal_s = pair.base_value / pair.growth
    lost_s = pair.value - ideal_s
    if (
        pair.is_rate
        or pair.quantity == "step_time_s"
        or communication_s is None
        or lost_s <= WORTH_TELLING * pair.value
    ):
        return None
    excess_s = _compute_excess(pair)
    rest_s = lost_s - communication_s - (excess_s or 0.0)
    return LostTime(
        ideal_s=ideal_s,
        lost_s=lost_s,
        communication_s=communication_s,
        communication_share=communication_s / lost_s,
        compute_excess_s=excess_s,
        compute_excess_share=None if excess_s is None else excess_s / lost_s,
        rest_s=rest_s,
        rest_share=rest_s / lost_s,
        message=_message(ideal_s, lost_s, communication_s, excess_s, rest_s),
    )


def _compute_excess(pair: Pair) -> float | None:
    ours, theirs = (point.median(lambda row: row.compute_s) for point in (pair.point, pair.base))
    return None if ours is None or theirs is None else ours - theirs / pair.growth


def _message(ideal_s: float, lost_s: float, communication_s: float, excess_s: float | None, rest_s: float) -> str:
    told = (
        f"{seconds_text(lost_s)} are lost against an ideal {seconds_text(ideal_s)}; communication "
        f"({seconds_text(communication_s)}) is {percent(communication_s / lost_s)} of that"
    )
    if excess_s is not None:
        return (
            f"{told}, compute excess {percent(excess_s / lost_s)} (smaller batch per device, contention), the rest "
            f"{percent(rest_s / lost_s)}"
        )
    if rest_s <= 0:
        return f"{told}: it was summed over ranks, or it overlaps compute"
    return (
        f"{told}. The other {percent(rest_s / lost_s)} ({seconds_text(rest_s)}) is not communication: compute excess "
        f"(smaller batch per device, contention) and what nobody timed apart; give compute_s to split it"
    )
