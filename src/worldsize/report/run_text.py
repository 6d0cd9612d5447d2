"""One run in plain lines, for the terminal. Its JSON twin is result.json."""

from __future__ import annotations

from collections.abc import Sequence

from worldsize.records import Bubble, Measured, Problem, RunRecord, RunResult


def run_text(record: RunRecord, result: RunResult, problems: Sequence[Problem]) -> str:
    """Return what one run measured, as lines with units, and what is wrong with it."""
    lines = [
        ("run", _what_ran(record, result)),
        ("loss", f"{result.losses[0]:.4f} → {result.losses[-1]:.4f} in {result.num_steps} steps{_held_out(result)}"),
        *_quality(result),
        ("step time", f"{_interval_ms(result.step_time_s)}, {result.tokens_per_s:,.0f} tokens/s over all devices"),
        ("phases", ", ".join(_phases(result))),
        ("arithmetic", _arithmetic(record, result)),
        ("memory", _memory(result)),
    ]
    if result.exposed_communication is not None:
        lines.append(("exchange", _exchange(result)))
    if result.bubble is not None:
        lines.append(("bubble", _bubble(result.bubble)))
    if result.measuring_cost is not None:
        cost = result.measuring_cost
        low, high = (1e2 * bound / result.step_time_s.median for bound in (cost.per_step_s.low, cost.per_step_s.high))
        lines.append(
            ("measuring", f"costs {1e2 * cost.share_of_step:.2f} % of a step ({low:.2f} to {high:.2f} %), "
             f"its marks alone {cost.marks_s * 1e6:.0f} µs")
        )  # fmt: skip
    if result.energy_j is not None:
        lines.append(("energy", f"{result.energy_j:,.0f} J"))
    lines += [(problem.severity, f"{problem.rule}: {problem.message}") for problem in problems]
    return "\n".join(f"{name:<11}{text}" for name, text in lines)


def _memory(result: RunResult) -> str:
    told = [f"{max(result.peak_memory_bytes) / 2**30:.2f} GiB at most on one rank"]
    if result.allocated_bytes:
        told.append(f"{max(result.allocated_bytes) / 2**20:,.1f} MiB allocated by a step")
    if result.held_bytes:
        told.append(f"{max(result.held_bytes) / 2**20:,.1f} MiB of it weights and moments")
    return ", ".join(told)


def _what_ran(record: RunRecord, result: RunResult) -> str:
    degrees = " × ".join(f"{axis}={n}" for axis, n in result.layout.items() if n > 1)
    layout = f" ({degrees})" if degrees else ""
    devices = "device" if result.world_size == 1 else "devices"
    return (
        f"{record.num_parameters:,} parameters, {result.strategy} on {result.world_size} "
        f"{record.environment.device_kind} {devices}{layout}, {record.config['train']['precision']}"
    )


def _held_out(result: RunResult) -> str:
    return f", {result.evaluations[-1].loss:.4f} on held-out text" if result.evaluations else ""


def _quality(result: RunResult) -> list[tuple[str, str]]:
    """Return what the last evaluation says beside the loss."""
    if not result.evaluations:
        return []
    last, said = result.evaluations[-1], []
    if last.classification is not None:
        quality = last.classification
        said.append(f"accuracy {1e2 * quality.accuracy:.2f} %, macro F1 {1e2 * quality.macro_f1:.2f} %")
    if last.perplexity is not None:
        said.append(f"perplexity {last.perplexity:.4g}")
    if last.bits_per_byte is not None:
        said.append(f"{last.bits_per_byte:.4f} bits per byte")
    if last.translation is not None:
        scores = last.translation
        said.append(
            f"BLEU {scores.bleu:.2f} ({scores.bleu_signature}), chrF {scores.chrf:.2f} ({scores.chrf_signature}) on "
            f"{scores.num_sentences:,} sentences"
        )
    return [("quality", ", ".join(said) + " on held-out data")]


def _interval_ms(value: Measured) -> str:
    return f"{value.median * 1e3:.1f} ms ({value.low * 1e3:.1f} to {value.high * 1e3:.1f})"


def _phases(result: RunResult) -> list[str]:
    total_s = result.step_time_s.median
    names = {"compute_s": "forward and backward", "exposed_communication_s": "exposed communication"}
    return [
        f"{names.get(phase, phase.removesuffix('_s').replace('_', ' '))} {1e2 * seconds / total_s:.1f} %"
        for phase, seconds in result.phases_s.items()
        if seconds
    ]


def _arithmetic(record: RunRecord, result: RunResult) -> str:
    parts = [f"{result.model_flop_per_s / 1e9:,.1f} GFLOP/s a device"]
    if result.mfu is not None:
        parts.append(f"MFU {1e2 * result.mfu:.1f} % (causal attention)")
    else:
        parts.append(f"no MFU: {result.mfu_absent_because}")
    if result.mfu_vs_measured_matmul is not None:
        parts.append(f"{1e2 * result.mfu_vs_measured_matmul:.1f} % of the best matmul rate measured here")
    if result.mfu_vs_stock_matmul is not None:
        parts.append(f"{1e2 * result.mfu_vs_stock_matmul:.1f} % of torch's own")
    return ", ".join(parts)


def _bubble(bubble: Bubble) -> str:
    return (
        f"{bubble.schedule}, {bubble.num_micro_batches} micro batches over stages of "
        f"{', '.join(map(str, bubble.stage_layers))} blocks: ideal {1e2 * bubble.ideal_share:.1f} %, "
        f"simulated {1e2 * bubble.simulated_share:.1f} % ({bubble.simulated_s * 1e3:.1f} ms), "
        f"observed {1e2 * bubble.observed_share:.1f} % ({_interval_ms(bubble.observed_s)})"
    )


def _exchange(result: RunResult) -> str:
    exposed = result.exposed_communication
    assert exposed is not None
    ways = {"clock": exposed.clock_s, "with minus without": exposed.ablation_s, "trace": exposed.trace_s}
    seen = ", ".join(f"{name} {_interval_ms(value)}" for name, value in ways.items() if value is not None)
    predicted = sum(c.payload_bytes for c in result.communication_bytes.predicted)
    text = f"exposed by {seen}; {predicted / 1e6:,.2f} MB a step predicted"
    if result.communication_bytes.observed is not None:
        observed = sum(c.payload_bytes for c in result.communication_bytes.observed)
        text += f", {observed / 1e6:,.2f} MB observed"
    return text + (f". {exposed.disagreement}" if exposed.disagreement else "")
