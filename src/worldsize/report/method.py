"""How each number was measured and what each word means, from the settings the study really had. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldsize.measure.statistics import CONFIDENCE, NUM_RESAMPLES
from worldsize.report.numbers import count
from worldsize.scaling.evidence import network_text
from worldsize.study.records import StudyResult


@dataclass(frozen=True)
class Definition:
    """A quantity: its formula where it has one, and how this study measured it."""

    term: str
    formula: str
    text: str


def definitions(result: StudyResult) -> list[Definition]:
    """Return what the page's numbers mean, in the order in which they appear."""
    found = [_step_time(result), _spread(result), _throughput()]
    found += [_speedup(), _efficiency_strong()] if result.scaling == "strong" else [_efficiency_weak()]
    found += [_same_work(), _phases(result)]
    if any(cell.world_size > 1 for cell in result.cells):
        found += [_exposed(result), _ratio()]
    return [*found, _loss(result), _mfu(), _cost(result), *_labels(result)]


def setting(result: StudyResult, section: str, key: str) -> Any:
    """Return a value of the study's config, or None where the record does not hold it."""
    part = result.config.get(section)
    return part.get(key) if isinstance(part, dict) else None


def _step_time(result: StudyResult) -> Definition:
    warmup = setting(result, "measure", "warmup_steps")
    window = setting(result, "measure", "window_steps")
    text = "A step is one optimizer step: all its micro batches, the gradient exchange and the update. "
    if warmup is not None:
        text += f"The first {count(warmup, 'step')} of a run are tagged as warm-up and left out. "
    if window is not None:
        text += f"Each rank synchronises its own device at the edges of windows of {count(window, 'step')}. "
    text += "Timed steps carry no profiler. "
    text += "A run counts with the median of its timed steps, a cell with the median of its runs."
    return Definition("Step time", "T = median over steps of the slowest rank's wall time", text)


def _spread(result: StudyResult) -> Definition:
    repeats = sorted({len(cell.runs) for cell in result.cells if cell.runs})
    text = f"{100 * CONFIDENCE:.0f} % percentile-bootstrap intervals from {NUM_RESAMPLES:,} resamples of the repeats. "
    if repeats:
        how_many = count(repeats[0], "repeat") if len(repeats) == 1 else f"{repeats[0]} to {repeats[-1]} repeats"
        text += f"Each cell that was measured has {how_many}"
        text += "; with so few, an interval cannot reach beyond the repeats themselves. " if repeats[-1] < 6 else ". "
    text += "A study interleaves the repeats of its cells, so that a drift of the machine hits all alike."
    return Definition("Intervals", "", text)


def _throughput() -> Definition:
    text = "All devices together. Padding is not counted."
    return Definition("Throughput", "tokens/s = target tokens of a step / T", text)


def _speedup() -> Definition:
    text = (
        "For the same work: strong scaling keeps the global batch, so that a step is the same samples at every number "
        "of "
        "devices. The ideal is devices / baseline devices."
    )
    return Definition("Speedup", "S(N) = T(baseline) / T(N)", text)


def _efficiency_strong() -> Definition:
    return Definition(
        "Efficiency", "E(N) = S(N) × baseline devices / N", "The share of the added devices that became speed."
    )


def _efficiency_weak() -> Definition:
    text = (
        "Weak scaling keeps the per-device batch, so that the work grows with the devices. No speedup is printed: the "
        "steps "
        "do not do the same work."
    )
    return Definition("Efficiency", "E(N) = (tokens/s per device at N) / (tokens/s per device at the baseline)", text)


def _same_work() -> Definition:
    text = (
        "The sample ids of a step depend on seed, step and global batch alone. Each run keeps a digest of the ids it "
        "consumed and counts of samples and tokens; a comparison whose digest, tokens, model, precision, optimizer, "
        "schedule or code differs is refused, and the reasons are printed in place of a speedup."
    )
    return Definition("Same work", "", text)


def _phases(result: StudyResult) -> Definition:
    at_one = " At one device communication is zero." if any(cell.world_size == 1 for cell in result.cells) else ""
    text = (
        "Phases are unions of time intervals on each rank, then the mean over ranks. What no phase accounts for is "
        f"'other' and is shown.{at_one}"
    )
    return Definition("Phases", "Σ phases = T", text)


def _exposed(result: StudyResult) -> Definition:
    rounds, traced = setting(result, "measure", "probe_rounds"), setting(result, "measure", "trace_steps")
    text = "Time in which communication runs and no compute does; what compute hides is free. "
    text += "By clock: marks in the timed steps. "
    if rounds == 0:
        text += "By ablation: not measured, probe_rounds is 0. "
    else:
        number = "" if rounds is None else f", {count(rounds, 'round')}"
        text += f"By ablation: steps with the gradient exchange minus steps without, interleaved{number}. "
    if traced == 0:
        text += "By trace: not measured, trace_steps is 0."
    else:
        number = "" if traced is None else f" in {count(traced, 'profiled step')}"
        text += (
            f"By trace: intervals of communication minus intervals of compute{number}, kept apart from the timed ones."
        )
    return Definition("Exposed communication", "union(communication) − union(compute)", text)


def _ratio() -> Definition:
    return Definition(
        "Compute / exposed", "compute_s / exposed_communication_s", "Absent where no communication is exposed."
    )


def _loss(result: StudyResult) -> Definition:
    precision = setting(result, "train", "precision")
    text = (
        "Summed over all ranks and divided once by the global count, so that padding and uneven ranks change nothing. "
    )
    text += "Curves show each cell's first finished repeat"
    text += f", trained in {precision}." if precision else "."
    return Definition("Loss", "Σ loss over target tokens / number of target tokens", text)


def _mfu() -> Definition:
    text = (
        "Model FLOP of forward and backward, causal attention, no recomputation counted. Where the device's peak is "
        "not "
        "known there is no MFU; 'of measured matmul' divides by the best matmul rate measured on this very device."
    )
    return Definition("MFU", "model FLOP/s per device / dense peak of the device in this precision", text)


def _cost(result: StudyResult) -> Definition:
    shares = [cell.measuring_cost_share for cell in result.cells if cell.measuring_cost_share is not None]
    text = "Steps with the clock minus steps without, interleaved. "
    text += (
        f"Highest share of a step in this study: {100 * max(shares):.2f} %."
        if shares
        else "This study did not measure it."
    )
    return Definition("Cost of measuring", "", text)


def _labels(result: StudyResult) -> list[Definition]:
    """Return what must be said of this machine: ranks over gloo, and what a device is on CPU."""
    environment = result.environment
    if environment is None:
        return []
    found = []
    if environment.device_kind == "cpu":
        pinned = "pinned to cores of its own" if environment.pinned_cores else "not pinned"
        cores = count(environment.threads_per_rank, "core")
        found.append(Definition("Device", "", f"A device is {cores} of the CPU; each rank is {pinned}."))
    if environment.emulated:
        found.append(Definition("Emulated hosts", "", network_text(environment.emulated)))
    elif environment.backend == "gloo" and environment.num_hosts == 1:
        text = "All ranks ran on one host over gloo: a real measurement of training on its CPU"
        text += (
            ", and only a functional check of training on GPUs."
            if environment.device_kind == "cuda"
            else ", not of a network."
        )
        found.append(Definition("Gloo on one host", "", text))
    return found
