"""Which law a study follows, what that law says of the next doublings, and where it stops being believable.

Every law that the cells suffice for is fitted; the others say what they need. Between those fitted the evidence
decides: the corrected Akaike criterion (Burnham & Anderson 2002), with the error of leaving one cell out beside it.
Definitions and limits: docs/explain/fits.md. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from worldsize.errors import unknown
from worldsize.records import Record
from worldsize.scaling.estimate import Block, Estimate, estimate
from worldsize.scaling.interval import Interval, further_run, interval_of
from worldsize.scaling.laws import LAWS, Floats, Scaling, Settings, settings
from worldsize.scaling.observations import Observation, too_few
from worldsize.scaling.regression import margin

NUM_DOUBLINGS = 3
GREATEST_STRETCH = 4  # times the largest measured number of devices
GREATEST_SPREAD = 1.5  # high / low of the interval of one further run
GREATEST_DISAGREEMENT = 0.2  # between laws of similar evidence
SIMILAR_EVIDENCE = 4.0  # difference of the criterion up to which two laws are both plausible
SAME_EVIDENCE = 2.0  # up to which the law with fewer parameters is taken
UNTESTED_STRETCH = 2  # where a law has as many parameters as there are cells: no cell could contradict it
NUM_BAND_POINTS = 25


class BandPoint(Record):
    """A point of a law's curve, for figures."""

    devices: float
    step_time_s: Interval = Field(description="the law's own value: between which curves the law may lie")


class Prediction(Record):
    """What a law says of more devices than were measured."""

    devices: int
    global_batch: int
    step_time_s: Interval = Field(description="where one further run will fall")
    speedup: Interval = Field(
        description="of one further run over the smallest number of devices; weak scaling: of the rate (scaled speedup)"
    )
    doubt: str | None = Field(description="why this is not believable, or None")


class Curve(Record):
    """One series at one batch: the global batch under strong scaling, the per-device batch under weak scaling."""

    series: str
    batch: float
    devices: list[int] = Field(description="measured")
    parameters: dict[str, Interval] = Field(description="names end in their units; the rest are pure numbers")
    band: list[BandPoint]
    doublings: list[Prediction]
    believable_to: int = Field(description="devices, by the doublings without doubt")


class LawFit(Record):
    """A law, its curves and the evidence for it."""

    law: str
    title: str
    formula: str
    source: str
    num_parameters: int
    num_runs: int
    noise: float = Field(description="relative standard deviation of one run about the law")
    aicc: float = Field(description="corrected Akaike criterion of log step times: lower is better")
    akaike_weight: float = Field(description="share of the evidence among the laws fitted, 0-1")
    leave_one_out_error: float | None = Field(
        description="relative, root mean square; None when no cell can be spared by this law"
    )
    misfit: str | None = Field(description="a sentence when the law is further from the cells than repeats explain")
    curves: list[Curve]


class NotFitted(Record):
    """A law for which the study does not suffice."""

    law: str
    reason: str


class LawFits(Record):
    """All laws held against one study."""

    scaling: str
    fits: list[LawFit] = Field(description="best evidence first")
    not_fitted: list[NotFitted]
    best: str | None = Field(description="name of the law chosen; None when none could be fitted")
    evidence: str = Field(description="why this law, in a sentence")


def fit_laws(observations: Sequence[Observation], scaling: Scaling) -> LawFits:
    """Fit every law of this scaling mode to the cells of one study and choose between them.

    Cells of the same work only. Raises UserError on an unknown scaling mode; too few cells are a result, not an error.
    """
    if scaling not in ("strong", "weak"):
        raise unknown("scaling mode", str(scaling), ("strong", "weak"))
    laws = [law for law in LAWS if scaling in law.scalings]
    reasons = {law.name: too_few(law, observations, scaling) if observations else "no cells" for law in laws}
    estimates = [estimate(law, observations, scaling) for law in laws if reasons[law.name] is None]
    estimates.sort(key=Estimate.aicc)
    fits = [_law_fit(one, estimates) for one in estimates]
    best = _choose(estimates)
    return LawFits(
        scaling=scaling,
        fits=fits,
        not_fitted=[NotFitted(law=name, reason=reason) for name, reason in reasons.items() if reason],
        best=best.law.name if best else None,
        evidence=_evidence(best, estimates, fits),
    )


def _choose(ranked: list[Estimate]) -> Estimate | None:
    """Return the simplest of the laws whose evidence is as good as the best one's."""
    same = [one for one in ranked if one.aicc() - ranked[0].aicc() <= SAME_EVIDENCE]
    return min(same, key=lambda one: one.num_parameters, default=None)


def _evidence(best: Estimate | None, ranked: list[Estimate], fits: list[LawFit]) -> str:
    if best is None:
        return "Too few points for any law."
    chosen = next(fit for fit in fits if fit.law == best.law.name)
    spared = chosen.leave_one_out_error
    error = "" if spared is None else f" Each cell predicted from the others: off by {spared:.1%}."
    others = [one for one in ranked if one is not best]
    if not others:
        text = f"{best.law.title} is the only law that these points suffice for.{error}"
    else:
        gap = others[0].aicc() - best.aicc()
        rival = others[0].law.title
        if gap > SIMILAR_EVIDENCE:
            text = f"{best.law.title} explains the step times better than {rival} (AICc lower by {gap:.1f}).{error}"
        else:
            text = f"{best.law.title} and {rival} fit about equally well (AICc differs by {abs(gap):.1f}).{error}"
    return f"{text} {chosen.misfit}" if chosen.misfit else text


def _law_fit(one: Estimate, ranked: list[Estimate]) -> LawFit:
    weights = np.exp(-0.5 * np.array([other.aicc() - ranked[0].aicc() for other in ranked]))
    return LawFit(
        law=one.law.name,
        title=one.law.title,
        formula=one.law.formula,
        source=one.law.source,
        num_parameters=one.num_parameters,
        num_runs=sum(block.cells.num_runs for block in one.blocks),
        noise=one.noise.sd,
        aicc=one.aicc(),
        akaike_weight=float(weights[ranked.index(one)] / weights.sum()),
        leave_one_out_error=one.leave_one_out(),
        misfit=_misfit(one),
        curves=[
            _curve(one, block, key, ranked)
            for block in one.blocks
            for key in _curve_keys(block.observations, one.scaling)
        ],
    )


def _misfit(one: Estimate) -> str | None:
    if not one.noise.is_misfit:
        return None
    return (
        f"The cells lie {one.noise.sd:.1%} (one run's scatter) from {one.law.title}, more than their repeats explain "
        f"(p = {one.noise.misfit_p:.2g}): something happens here that it does not describe."
    )


def _curve_keys(observations: Sequence[Observation], scaling: Scaling) -> list[tuple[str, float]]:
    return sorted({one.curve(scaling) for one in observations})


def _curve(one: Estimate, block: Block, key: tuple[str, float], ranked: list[Estimate]) -> Curve:
    devices = sorted({o.devices for o in block.observations if o.curve(one.scaling) == key})
    parameters = one.law.parameters(block.allowed)
    line = np.geomspace(devices[0], GREATEST_STRETCH * devices[-1], NUM_BAND_POINTS)
    times = one.step_time_s(block, _along(block, key, line, one.scaling))
    doublings = _doublings(one, block, key, ranked)
    trusted = devices[-1]
    for prediction in doublings:
        if prediction.doubt:
            break
        trusted = prediction.devices
    return Curve(
        series=key[0],
        batch=key[1],
        devices=devices,
        parameters={name: interval_of(values) for name, values in parameters.items()},
        band=[BandPoint(devices=float(n), step_time_s=interval_of(t)) for n, t in zip(line, times, strict=True)],
        doublings=doublings,
        believable_to=trusted,
    )


def _along(block: Block, key: tuple[str, float], devices: Floats, scaling: Scaling) -> Settings:
    """Return settings along a curve; the payload is that of the block's cells that exchange gradients."""
    payload = max((o.payload_bytes or 0.0 for o in block.observations if o.devices > 1), default=0.0)
    return settings(devices, key[1] * devices if scaling == "weak" else key[1], payload)


def _doublings(one: Estimate, block: Block, key: tuple[str, float], ranked: list[Estimate]) -> list[Prediction]:
    measured = [o.devices for o in block.observations if o.curve(one.scaling) == key]
    first, last = min(measured), max(measured)
    predictions = []
    for devices in [last * 2**k for k in range(1, NUM_DOUBLINGS + 1)]:
        if one.scaling == "strong" and devices > key[1]:
            break  # fewer samples than devices
        at = _along(block, key, np.array([first, devices], dtype=np.float64), one.scaling)
        base, times = one.step_time_s(block, at)
        work = devices / first if one.scaling == "weak" else 1.0
        step_time_s = further_run(times, margin(one.noise))
        predictions.append(
            Prediction(
                devices=devices,
                global_batch=round(at.global_batch[1]),
                step_time_s=step_time_s,
                speedup=further_run(work * base / times, margin(one.noise)),
                doubt=_doubt(one, ranked, key, devices, last, step_time_s),
            )
        )
    return predictions


def _doubt(
    one: Estimate, ranked: list[Estimate], key: tuple[str, float], devices: int, last: int, step_time_s: Interval
) -> str | None:
    """Return the first reason not to believe a prediction, or None."""
    if one.noise.is_misfit:
        return f"{one.law.title} does not describe the cells that were measured"
    stretch = GREATEST_STRETCH if one.is_tested else UNTESTED_STRETCH
    if devices > stretch * last:
        untested = "" if one.is_tested else ", by a law with as many parameters as cells, which nothing tests"
        return f"more than {stretch} times the {last} devices that were measured{untested}"
    if not step_time_s.low or step_time_s.high is None or step_time_s.high > GREATEST_SPREAD * step_time_s.low:
        return f"the interval's ends differ by more than {GREATEST_SPREAD - 1:.0%}"
    for other in ranked:
        if other is one or other.aicc() - ranked[0].aicc() > SIMILAR_EVIDENCE:
            continue
        block = next(b for b in other.blocks if key in _curve_keys(b.observations, one.scaling))
        at = _along(block, key, np.array([float(devices)]), one.scaling)
        rival_s = float(other.step_time_s(block, at)[0, -1])
        if abs(math.log(rival_s / (step_time_s.value or math.inf))) > math.log1p(GREATEST_DISAGREEMENT):
            return f"{other.law.title}, with similar evidence, says {rival_s:.3g} s"
    return None
