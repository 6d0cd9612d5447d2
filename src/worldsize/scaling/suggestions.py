"""What to try next, with what it should give: by the model fitted to this study, else reckoned from its phases.

The model (scaling/questions.py) answers for other batches, payloads and links where the study suffices for it. What
is left is reckoned: each reckoning changes the phases of a step in one stated way and gives the efficiency that
follows, ideal step time / step time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from worldsize.scaling.interval import Interval
from worldsize.scaling.pair import EXPOSED, GROWS_WITH_BATCH, Pair
from worldsize.scaling.questions import Answers, Runs, is_unchanged, num_micro, setting, told
from worldsize.scaling.what_if import WhatIf
from worldsize.scaling.wording import percent, time_text
from worldsize.study.files import Run
from worldsize.study.records import CellResult

WORTH = 0.02
"""A change that gives less than this is not listed."""
DIFFERS = 0.05
"""A model further than this from what was measured says so."""
GREATEST_SPREAD = 1.5
"""An answer whose interval's ends differ by more is no advice; the record keeps it."""

EXCHANGES_WHOLE_GRADIENTS = ("allreduce", "ddp")
"""Strategies whose exchange is every gradient once a step, which can be rounded."""
HIDES_EXCHANGE = {
    "allreduce": "Exchanging gradients while backward runs (parallel.strategy=ddp)",
    "ddp": "Overlapping the exchange better (parallel.bucket_mib, more accumulation)",
}
"""What hides a strategy's exchange behind compute; there is no key for it under the others."""


@dataclass(frozen=True)
class Suggestion:
    """One change: the efficiency it should give, the sentence for the list and, for the headline, a clause."""

    efficiency: float
    sentence: str
    clause: str | None = None
    gain: float | None = None
    """Efficiency over that of now, both by the model; None where the measured efficiency is what to compare with."""
    assumptions: tuple[str, ...] = ()
    kind: str = ""
    """What is changed: of each kind the headline tells the best only."""


def suggestions(pair: Pair, cells: Sequence[CellResult], runs: Runs, answers: Answers | None) -> list[Suggestion]:
    """Return what to try for this cell, best first; what the study has measured comes before what it leads to."""
    own = runs[pair.cell.name]
    measured = _measured_doubling(pair, cells)
    possible = [
        *(_answered(pair, answers, own[0]) if answers else _halve_exchange(pair, own)),
        *_shrink_bubble(pair, own[0]),
        *([] if measured or (answers and answers.tells_batches) else _double_batch(pair)),
        *_even_ranks(pair, own),
        *_hide_exchange(pair, own),
        *_divide_update(pair),
        *_hide_data_wait(pair),
    ]
    now = pair.efficiency()
    worthwhile = [one for one in possible if (one.gain or one.efficiency / now) > 1 + WORTH]
    return measured + sorted(worthwhile, key=lambda one: -one.efficiency)


def _answered(pair: Pair, answers: Answers, run: Run) -> list[Suggestion]:
    """Return the model's answers that it has no doubt about, and whose intervals say something."""
    now = answers.now.speedup.value if answers.now.speedup else None
    if not now:
        return []
    off = abs(now / pair.num_times_devices / pair.efficiency() - 1) > DIFFERS
    as_it_is = f" (the model gives {pair.told(now / pair.num_times_devices)} for the cell as it is)" if off else ""
    said = []
    for what_if in answers.what_ifs:
        speedup = what_if.speedup
        if not speedup or not speedup.value or what_if.doubt or _too_wide(speedup) or _no_link(what_if, run):
            continue
        if _needless(what_if, answers.what_ifs):
            continue
        clause = f"{setting(what_if, pair, num_micro(run))} would give {told(pair, speedup)}"
        sentence = f"{clause[0].upper()}{clause[1:]}, by the model fitted to this study{as_it_is}."
        efficiency = speedup.value / pair.num_times_devices
        gain, assumed = speedup.value / now, tuple(what_if.assumptions)
        kind = "batch" if is_unchanged(what_if) else "exchange"
        said.append(Suggestion(efficiency, sentence + _caution(what_if, pair), clause, gain, assumed, kind))
    return said


def too_uncertain(answers: Answers | None) -> list[str]:
    """Return a sentence where none of the model's answers is certain enough to be advice."""
    speedups = [one.speedup for one in answers.what_ifs if one.speedup and not one.doubt] if answers else []
    if not speedups or not all(_too_wide(speedup) for speedup in speedups):
        return []
    return [
        f"What another batch or smaller gradients would give cannot be said: the ends of the fitted model's intervals "
        f"differ by more than {percent(GREATEST_SPREAD - 1)}. A further batch in --global-batch narrows them."
    ]


def _needless(what_if: WhatIf, answers: Sequence[WhatIf]) -> bool:
    """Tell whether fewer micro batches at the same batch do about as well."""
    return any(
        other.speedup and other.speedup.value and what_if.speedup and what_if.speedup.value
        and is_unchanged(other) and is_unchanged(what_if) and other.global_batch == what_if.global_batch
        and other.num_micro < what_if.num_micro and what_if.speedup.value <= other.speedup.value * (1 + WORTH)
        for other in answers
    )  # fmt: skip


def _too_wide(speedup: Interval) -> bool:
    return not speedup.low or speedup.high is None or speedup.high > GREATEST_SPREAD * speedup.low


def _no_link(what_if: WhatIf, run: Run) -> bool:
    """Tell whether a faster link is asked about where ranks share the memory of one host: there is none to buy."""
    environment = run.record.environment
    return what_if.link_factor != 1 and environment.device_kind == "cpu" and not environment.has_network


def _caution(what_if: WhatIf, pair: Pair) -> str:
    if what_if.payload_factor != 1:
        return " It rounds gradients: compare the loss."
    if is_unchanged(what_if) and what_if.global_batch != pair.cell.global_batch:
        return " Loss per token changes with the batch: compare it."
    return ""


def assumptions(ideas: Sequence[Suggestion]) -> list[str]:
    """Return in one sentence what the model's answers among the suggestions assume, each thing once."""
    said = list(dict.fromkeys(sentence.rstrip(".") for idea in ideas for sentence in idea.assumptions))
    lowered = [sentence[:1].lower() + sentence[1:] for sentence in said]
    return [f"The model behind what would be assumes: {'; '.join(lowered)}."] if said else []


def doubled_batch(pair: Pair) -> float:
    """Return the efficiency after the batch doubles: GROWS_WITH_BATCH double, the other phases stay per step."""
    more_s = [sum(each.phases_s.get(name, 0.0) for name in GROWS_WITH_BATCH) for each in (pair.cell, pair.baseline)]
    return pair.efficiency(cell_change_s=more_s[0], baseline_change_s=more_s[1])


def _measured_doubling(pair: Pair, cells: Sequence[CellResult]) -> list[Suggestion]:
    for cell in cells:
        same = cell.world_size == pair.cell.world_size and cell.vary == pair.cell.vary
        if same and cell.global_batch == pair.cell.global_batch * 2 and cell.efficiency and not cell.overridden:
            efficiency = cell.efficiency.median
            gave, reckoned = pair.told(efficiency), pair.told(doubled_batch(pair))
            sentence = (
                f"Doubling the batch was measured in this study: a global batch of {cell.global_batch} gives {gave} "
                f"(the phases at {pair.cell.global_batch} lead one to expect {reckoned})."
            )
            return [Suggestion(efficiency, sentence)]
    return []


def _double_batch(pair: Pair) -> list[Suggestion]:
    efficiency, batch, base = doubled_batch(pair), pair.cell.global_batch * 2, pair.baseline.global_batch
    sentence = (
        f"Doubling the global batch to {batch} should give {pair.told(efficiency)}, if compute doubles and exposed "
        f"communication and the optimizer take as long a step as now: measure a second batch to know (--global-batch "
        f"{base},{base * 2}). Loss per token changes with the batch: compare it."
    )
    return [
        Suggestion(
            efficiency, sentence, f"a global batch of {batch} should give about {pair.told(efficiency)}", kind="batch"
        )
    ]


def _even_ranks(pair: Pair, runs: Sequence[Run]) -> list[Suggestion]:
    if not _has_slow_rank(pair):
        return []
    excess_s = median(_excess_compute_s(run) for run in runs)
    efficiency = pair.efficiency(cell_change_s=-excess_s)
    sentence = (
        f"Bringing the slow rank level with the others should give {pair.told(efficiency)}: it computes "
        f"{time_text(excess_s)} longer a step, and all wait."
    )
    return [
        Suggestion(efficiency, sentence, f"ranks of one speed would give about {pair.told(efficiency)}", kind="ranks")
    ]


def _has_slow_rank(pair: Pair) -> bool:
    return any(problem.rule == "slow-rank" for problem in pair.cell.problems)


def _excess_compute_s(run: Run) -> float:
    """Return how much longer than the others' median the slowest rank computes in a step."""
    compute_s = sorted(rank.phases_s.get("compute_s", 0.0) for rank in run.result.ranks)
    return compute_s[-1] - median(compute_s[:-1])


def _exchange_s(pair: Pair, runs: Sequence[Run]) -> float:
    """Return exposed communication (s) without the time in which ranks only wait for a slow one, mean over ranks."""
    exposed_s = pair.cell.phases_s.get(EXPOSED, 0.0)
    if not _has_slow_rank(pair):
        return exposed_s
    num_ranks = pair.cell.world_size
    waiting_s = median(_excess_compute_s(run) for run in runs) * (num_ranks - 1) / num_ranks
    return max(0.0, exposed_s - waiting_s)


def _halve_exchange(pair: Pair, runs: Sequence[Run]) -> list[Suggestion]:
    if pair.cell.strategy not in EXCHANGES_WHOLE_GRADIENTS:
        return []
    efficiency = pair.efficiency(cell_change_s=-_exchange_s(pair, runs) / 2)
    sentence = (
        f"Exchanging gradients in bf16 should give {pair.told(efficiency)}, if exposed communication halves with "
        f"the bytes (it does not where ranks wait for each other). It rounds gradients: compare the loss."
    )
    return [
        Suggestion(efficiency, sentence, f"bf16 gradients should give about {pair.told(efficiency)}", kind="exchange")
    ]


def _hide_exchange(pair: Pair, runs: Sequence[Run]) -> list[Suggestion]:
    how = HIDES_EXCHANGE.get(pair.cell.strategy or "")
    if how is None:
        return []
    efficiency = pair.efficiency(cell_change_s=-_exchange_s(pair, runs))
    sentence = (
        f"{how} can give at most {pair.told(efficiency)}: all {time_text(_exchange_s(pair, runs))} of the exchange "
        "hidden."
    )
    return [Suggestion(efficiency, sentence)]


def _shrink_bubble(pair: Pair, run: Run) -> list[Suggestion]:
    """Twice as many micro batches of half the size: a stage waits for half as long at either end of the schedule."""
    bubble_s, micro_batch = pair.cell.phases_s.get("bubble_s", 0.0), run.config.train.micro_batch or 1
    if pair.cell.strategy == "model_parallel" and bubble_s:
        efficiency = pair.efficiency(cell_change_s=-bubble_s)
        told = f"can give at most {pair.told(efficiency)}: all {time_text(bubble_s)} in which stages idle filled."
        return [Suggestion(efficiency, f"Overlapping micro batches (parallel.strategy=pipeline) {told}", kind="bubble")]
    if pair.cell.strategy != "pipeline" or micro_batch < 2:
        return []
    efficiency = pair.efficiency(cell_change_s=-bubble_s / 2)
    clause = f"train.micro_batch={micro_batch // 2} should give about {pair.told(efficiency)}"
    sentence = (
        f"Twice as many micro batches (train.micro_batch={micro_batch // 2}) should give {pair.told(efficiency)}, if "
        f"smaller ones compute as efficiently: the bubble of {time_text(bubble_s)} halves."
    )
    return [Suggestion(efficiency, sentence, clause, kind="bubble")]


def _divide_update(pair: Pair) -> list[Suggestion]:
    if pair.cell.strategy != "ddp":
        return []
    saved_s = pair.cell.phases_s.get("optimizer_s", 0.0) * (1 - 1 / pair.cell.world_size)
    efficiency = pair.efficiency(cell_change_s=-saved_s)
    sentence = (
        f"Dividing the optimizer's update among the devices (ZeRO stage 1) can give at most "
        f"{pair.told(efficiency)}: each now updates all weights; gathering them again would cost some of it."
    )
    return [Suggestion(efficiency, sentence)]


def _hide_data_wait(pair: Pair) -> list[Suggestion]:
    waits_s = [each.phases_s.get("data_wait_s", 0.0) for each in (pair.cell, pair.baseline)]
    efficiency = pair.efficiency(cell_change_s=-waits_s[0], baseline_change_s=-waits_s[1])
    sentence = (
        f"Preparing batches ahead of time should give {pair.told(efficiency)}: {time_text(waits_s[0])} of each "
        f"step waits for data."
    )
    return [Suggestion(efficiency, sentence)]
