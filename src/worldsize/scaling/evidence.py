"""What a verdict rests on: the same work, losses, times, and how far the measuring itself can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worldsize.config.rates import rate_text
from worldsize.records import CommunicationBytes, EmulatedNetwork
from worldsize.scaling.pair import Pair
from worldsize.scaling.wording import devices, percent, time_interval, time_text
from worldsize.study.comparability import STEP_BY_STEP, loss_differences, tolerance_at
from worldsize.study.files import Run
from worldsize.study.records import CellResult

AGREE_WITHIN = 0.10
CAUSES = ("slow-rank", "too-few-cores")
"""Rules whose warnings explain lost time: the verdict tells them under why."""


def evidence(pair: Pair, runs: Sequence[Run], baseline_runs: Sequence[Run]) -> list[str]:
    """Return the sentences for a cell and its baseline, in a fixed order, then every warning about either."""
    parts: list[Callable[[Pair, Sequence[Run], Sequence[Run]], str | None]] = [_work, _losses, _times]
    said = [part(pair, runs, baseline_runs) for part in parts]
    return [sentence for sentence in said if sentence] + about_measuring(pair.cell, runs) + warnings(pair)


def about_measuring(cell: CellResult, runs: Sequence[Run]) -> list[str]:
    """Return what the cell's runs say about the measuring: exposed communication, bytes, cost, backend, missing MFU."""
    said = [
        _three_ways(cell),
        _bytes(runs[0].result.communication_bytes),
        _cost(cell),
        _backend(runs[0]),
        _no_mfu(cell, runs[0]),
    ]
    return [sentence for sentence in said if sentence]


def warnings(pair: Pair) -> list[str]:
    """Return every warning about the cell and its baseline, with the cell's name."""
    both = [pair.cell] if pair.cell.name == pair.baseline.name else [pair.cell, pair.baseline]
    return [
        f"Warning ({problem.rule}, {cell.name}): {problem.message}."
        for cell in both
        for problem in cell.problems
        if problem.severity == "warns" and not (cell is pair.cell and problem.rule in CAUSES)
    ]


def _work(pair: Pair, runs: Sequence[Run], baseline_runs: Sequence[Run]) -> str | None:
    if pair.cell.overridden:
        reasons = "; ".join(problem.message for problem in pair.cell.problems if problem.severity == "blocks")
        return f"The work is not the same, and the gate was overridden: {reasons}."
    result = runs[0].result
    same = "Same samples, other maths" if pair.cell.other_maths else "Same work"
    counts = f"{result.num_samples:,} samples and {result.num_tokens:,} tokens"
    if pair.scaling == "weak":
        return f"Every run consumed the samples that its seed, step and global batch prescribe: {counts} a run here."
    num_runs = len(runs) + len(baseline_runs)
    return f"{same}: {counts} in each of {num_runs} runs, digest {result.samples_digest[:8]}… equal in all."


def _losses(pair: Pair, runs: Sequence[Run], baseline_runs: Sequence[Run]) -> str | None:
    if pair.scaling == "weak":
        return None
    theirs = baseline_runs[0].result.losses[:STEP_BY_STEP]
    largest = max((gap for run in runs for gap in loss_differences(run.result.losses, theirs)), default=0.0)
    allowed = tolerance_at(runs[0], len(theirs) - 1)
    first = "the first " if len(runs[0].result.losses) > STEP_BY_STEP else ""
    return (
        f"Losses differ from the baseline's by at most {largest:.1e} relative over {first}{len(theirs)} steps "
        f"({runs[0].config.train.precision} allows {allowed:.0e})."
    )


def _times(pair: Pair, runs: Sequence[Run], baseline_runs: Sequence[Run]) -> str | None:
    both = [(pair.baseline, baseline_runs), (pair.cell, runs)]
    times = [
        f"{devices(cell.world_size)} {time_interval(cell.step_time_s)} in {len(of)} repeat{'s' * (len(of) > 1)}"
        for cell, of in both
        if cell.step_time_s
    ]
    return f"Step time, slowest rank, with 95 % interval: {'; '.join(times)}."


def _three_ways(cell: CellResult) -> str | None:
    exposed = cell.exposed_communication
    if exposed is None:
        return None
    ways = {"the clock": exposed.clock_s, "leaving the exchange out": exposed.ablation_s, "the trace": exposed.trace_s}
    seconds = {name: measured.median for name, measured in ways.items() if measured}
    told = ", ".join(f"{time_text(value)} by {name}" for name, value in seconds.items())
    if len(seconds) == 1:
        return f"Exposed communication: {told}; no second way was measured."
    if exposed.disagreement:
        return f"Exposed communication: {told}. {exposed.disagreement[:1].upper()}{exposed.disagreement[1:]}"
    gap = (max(seconds.values()) - min(seconds.values())) / max(max(seconds.values()), 1e-12)
    agree = "they agree within" if gap <= AGREE_WITHIN else "they differ by"
    return f"Exposed communication: {told}; {agree} {percent(max(gap, 0.01))}."


def _bytes(counts: CommunicationBytes) -> str | None:
    if not counts.predicted:
        return None
    predicted = sum(count.payload_bytes for count in counts.predicted)
    if counts.observed is None:
        return f"{predicted:,} bytes a rank and step are predicted for collectives; no step was traced to count them."
    observed = sum(count.payload_bytes for count in counts.observed)
    if observed == predicted:
        return f"{predicted:,} bytes a rank and step go into collectives: predicted and observed alike."
    return f"{predicted:,} bytes a rank and step were predicted for collectives, {observed:,} observed."


def _cost(cell: CellResult) -> str | None:
    if cell.measuring_cost_share is None:
        return None
    if cell.measuring_cost_share <= 0:
        return "What measuring costs does not show above the noise (steps with the clock minus steps without)."
    return f"Measuring costs {cell.measuring_cost_share * 100:.2f} % of the step (steps with the clock minus without)."


def _backend(run: Run) -> str | None:
    environment = run.record.environment
    if environment.emulated:
        return network_text(environment.emulated)
    if environment.backend != "gloo" or environment.num_hosts != 1 or environment.device_kind != "cpu":
        return None
    return "Gloo on one host: a real measurement of training on CPU cores; it says nothing about GPUs or a network."


def network_text(network: EmulatedNetwork) -> str:
    """Return what an emulated network is, and what it was measured to give."""
    limit = f"links of {rate_text(network.link_bit_per_s)}" if network.link_bit_per_s else "links without a limit"
    delay = f" and {time_text(network.latency_s)} latency" if network.latency_s else ""
    gave = network.all_reduce_bit_per_s
    measured = f"; an all-reduce before training reached {rate_text(gave)}" if gave else ""
    return (
        f"Gloo between {network.num_hosts} emulated hosts on one machine, {limit}{delay}{measured}: a real measurement "
        "of training on CPU cores over a network of that rate, whose packets cost these cores time that a network "
        "card would take."
    )


def _no_mfu(cell: CellResult, run: Run) -> str | None:
    if cell.mfu is not None or not run.result.mfu_absent_because:
        return None
    return f"No MFU is given: {run.result.mfu_absent_because}."
