"""The same-work gate: what must be equal before two runs' times may be divided (DESIGN rules 1 and 2).

Each check compares a run with the baseline's first run and returns a sentence that says what differs, or None. Under
weak scaling the global batch differs by design, and with it samples, tokens and losses; the per-device batch must be
equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

from worldsize.parallel.registry import strategies
from worldsize.records import Problem
from worldsize.study.files import Run
from worldsize.study.grid import Scaling

Severity = Literal["blocks", "warns"]
Find = Callable[[Run, Run, Scaling], str | None]

LOSS_TOLERANCE = {"fp64": 1e-9, "fp32": 1e-4, "tf32": 2e-3, "fp16": 2e-3, "bf16": 1e-2}
"""Largest relative difference of a step's loss. Sums in another order differ by rounding; training amplifies that. The
reduced formats' tolerances are two to four times their unit roundoff (2^-11 for tf32 and fp16, 2^-8 for bf16)."""
TOLERANCE_HOLDS_STEPS = 50
"""From here on the tolerance grows in proportion to the step: rounding differences grow while a model trains."""
STEP_BY_STEP = 100
"""Steps whose losses are compared one by one. Later, what rounding began has grown so far that single steps of the same
training part; their means over MEAN_STEPS do not."""
MEAN_STEPS = 50
MEAN_TOLERANCE = 0.02
"""Largest relative difference of such a mean; where a step is allowed more, so is the mean."""
DROPOUT_TOLERANCE = 0.05
"""Dropout masks depend on the layout, so that losses agree only roughly."""


def in_runs(rule: str, severity: Severity, runs: Sequence[Run], find: Callable[[Run], str | None]) -> list[Problem]:
    """Apply `find` to a cell's runs; return at most one problem: the first sentence, and in how many runs it holds."""
    found = [message for run in runs if (message := find(run))]
    if not found:
        return []
    share = f"all {len(runs)}" if len(found) == len(runs) else f"{len(found)} of {len(runs)}"
    suffix = f" (in {share} repeats)" if len(runs) > 1 else ""
    return [Problem(rule=rule, severity=severity, message=found[0] + suffix)]


@dataclass(frozen=True)
class Check:
    """One thing that must be equal."""

    rule: str
    find: Find
    severity: Severity = "blocks"


def compare(runs: Sequence[Run], reference: Run, scaling: Scaling) -> list[Problem]:
    """Return what makes the runs unlike the baseline's run `reference`: none when they are the same work."""
    problems: list[Problem] = []
    for check in CHECKS:

        def find(run: Run, check: Check = check) -> str | None:
            return check.find(run, reference, scaling)

        problems += in_runs(check.rule, check.severity, runs, find)
    return problems


def _unequal(what: str, ours: Any, theirs: Any) -> str | None:
    return None if ours == theirs else f"{what} is {ours}, the baseline's is {theirs}"


def _config_differs(*keys: str) -> Find:
    """Make a check that the given keys (or, ending in a dot, whole sections) of both resolved configs are equal."""

    def find(run: Run, reference: Run, _: Scaling) -> str | None:
        ours, theirs = run.settings, reference.settings
        differing = [key for key in {**ours, **theirs} if key.startswith(keys) and ours.get(key) != theirs.get(key)]
        sentences = [f"{key} is {ours.get(key)}, the baseline's is {theirs.get(key)}" for key in differing]
        return "; ".join(sentences) or None

    return find


def _global_batch(run: Run, reference: Run, scaling: Scaling) -> str | None:
    if scaling == "strong":
        return _unequal("the global batch", run.config.train.global_batch, reference.config.train.global_batch)
    return _unequal("the per-device batch", per_device_batch(run), per_device_batch(reference))


def per_device_batch(run: Run) -> float:
    """Return the samples one device sees per optimizer step."""
    return run.config.train.global_batch / run.record.world_size


def _num_samples(run: Run, reference: Run, scaling: Scaling) -> str | None:
    if scaling == "weak" or run.result.num_samples == reference.result.num_samples:
        return None
    ratio = run.result.num_samples / reference.result.num_samples
    return (
        f"{run.result.num_samples} samples were consumed, by the baseline {reference.result.num_samples} ({ratio:.3g}x)"
    )


def _num_tokens(run: Run, reference: Run, scaling: Scaling) -> str | None:
    if scaling == "weak":
        return None
    return _unequal("the number of target tokens", run.result.num_tokens, reference.result.num_tokens)


def _samples_digest(run: Run, reference: Run, scaling: Scaling) -> str | None:
    ours, theirs = run.result.samples_digest, reference.result.samples_digest
    if scaling == "weak" or ours == theirs:
        return None
    return f"other samples than the baseline's, or in other steps (digest {ours[:8]}…, baseline {theirs[:8]}…)"


def _start(run: Run, reference: Run, _: Scaling) -> str | None:
    ours, theirs = (checksums_at(each, 0) for each in (run, reference))
    if not ours or not theirs or ours[0] == theirs[0]:
        return None
    return (
        f"the weights before the first step are not the baseline's (checksum {ours[0][:8]}…, baseline {theirs[0][:8]}…)"
    )


def checksums_at(run: Run, step: int) -> list[str]:
    """Return the ranks' checksums of the weights after `step`, or none where none were taken."""
    return next((checksum.by_rank for checksum in run.result.checksums if checksum.step == step), [])


def tolerance_at(run: Run, step: int) -> float:
    """Return how far, relatively, the loss of `step` (counted from 0) may lie from the baseline's."""
    if run.config.model.dropout > 0:
        return DROPOUT_TOLERANCE
    return LOSS_TOLERANCE[run.config.train.precision] * max(1.0, (step + 1) / TOLERANCE_HOLDS_STEPS)


def changes_maths(run: Run) -> bool:
    """Tell whether the run's strategy trains otherwise than one device would, so that losses differ step by step."""
    strategy = strategies().get(run.result.strategy)
    return strategy is not None and not strategy.same_maths


def loss_differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return each step's relative difference of loss, infinite where a loss is not finite."""
    differences = [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(ours, theirs, strict=False)]
    return [difference if math.isfinite(difference) else math.inf for difference in differences]


def _losses(run: Run, reference: Run, scaling: Scaling) -> str | None:
    if scaling == "weak" or changes_maths(run) or changes_maths(reference):
        return None
    ours, theirs = (each.result.losses for each in (run, reference))
    gaps = loss_differences(ours[:STEP_BY_STEP], theirs)
    beyond = [step for step, gap in enumerate(gaps) if gap > tolerance_at(run, step)]
    if beyond:
        step = beyond[0]
        return (
            f"the loss of step {step} is {ours[step]:.6g}, the baseline's {theirs[step]:.6g}: further apart than "
            f"{tolerance_at(run, step):.0e} relative, which {run.config.train.precision} allows; {len(beyond)} of "
            f"{len(gaps)} steps are"
        )
    return _mean_losses(run, ours, theirs)


def _mean_losses(run: Run, ours: Sequence[float], theirs: Sequence[float]) -> str | None:
    """Compare the means of the steps beyond STEP_BY_STEP, whole groups of MEAN_STEPS."""
    for first in range(STEP_BY_STEP, min(len(ours), len(theirs)) - MEAN_STEPS + 1, MEAN_STEPS):
        means = [mean(losses[first : first + MEAN_STEPS]) for losses in (ours, theirs)]
        allowed = max(MEAN_TOLERANCE, tolerance_at(run, STEP_BY_STEP))
        if loss_differences(means[:1], means[1:])[0] > allowed:
            return (
                f"the mean loss of steps {first} to {first + MEAN_STEPS - 1} is {means[0]:.6g}, the baseline's "
                f"{means[1]:.6g}: further apart than {allowed:.0%}"
            )
    return None


def _tokens(run: Run, reference: Run, _: Scaling) -> str | None:
    ours, theirs = run.record.tokens_digest, reference.record.tokens_digest
    return _unequal("the tokenized text (digest)", ours[:12], theirs[:12]) if ours and theirs else None


def _torch(run: Run, reference: Run, _: Scaling) -> str | None:
    ours, theirs = run.record.environment.torch, reference.record.environment.torch
    return _unequal("torch's version", ours, theirs) if ours and theirs else None


def _code(run: Run, reference: Run, _: Scaling) -> str | None:
    ours, theirs = run.record.environment.code_version, reference.record.environment.code_version
    return _unequal("worldsize's own code (digest)", ours[:12], theirs[:12])


def _devices(run: Run, reference: Run, _: Scaling) -> str | None:
    ours, theirs = (sorted(set(each.record.environment.device_names)) for each in (run, reference))
    return _unequal("the kind of device", ", ".join(ours), ", ".join(theirs))


def _host(run: Run, reference: Run, _: Scaling) -> str | None:
    return _unequal("the host", run.record.environment.hostname, reference.record.environment.hostname)


CHECKS = (
    Check("different-model", _config_differs("model.")),
    Check("different-data", _config_differs("data.task", "data.source", "data.target_source", "data.tokenizer",
                                            "data.text_column", "data.label_column", "data.target_column",
                                            "data.packing", "data.max_bytes", "data.validation_fraction")),
    Check("different-text", _tokens),
    Check("different-precision", _config_differs("train.precision")),
    Check("different-optimizer", _config_differs("optimizer.learning_rate", "optimizer.beta", "optimizer.eps",
                                                 "optimizer.weight_decay", "train.grad_clip_norm",
                                                 "train.label_smoothing", "train.token_dropout")),
    Check("different-schedule", _config_differs("optimizer.warmup_steps", "optimizer.schedule",
                                                "optimizer.min_lr_fraction")),
    Check("different-steps", _config_differs("train.steps")),
    Check("different-seed", _config_differs("train.seed")),
    Check("different-batch", _global_batch),
    Check("different-num-samples", _num_samples),
    Check("different-tokens", _num_tokens),
    Check("different-samples", _samples_digest),
    Check("different-start", _start),
    Check("different-loss", _losses),
    Check("different-program", _config_differs("train.compile")),
    Check("different-code", _code),
    Check("different-torch", _torch),
    Check("different-devices", _devices),
    Check("different-cores", _config_differs("device.threads_per_rank", "device.pin")),
    Check("different-host", _host, "warns"),
)  # fmt: skip
