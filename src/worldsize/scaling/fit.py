"""Which law a study follows, what that law says of the next doublings, and where it stops being believable.

Every law that the cells suffice for is fitted; the others say what they need. Between those fitted the evidence
decides: the corrected Akaike criterion (Burnham & Anderson 2002), with the error of leaving one cell out beside it.
A choice is not knowledge: few points favour the simplest law while a law with one cost more fits as well and foretells
something else. So the outlook's intervals hold those of every law that is possible (`is_possible`), not the chosen
one's alone. Definitions and limits: docs/explain/fits.md. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from worldsize.errors import unknown
from worldsize.scaling.estimate import Block, Estimate, estimate
from worldsize.scaling.fit_records import BandPoint, Curve, LawFit, LawFits, NotFitted, Outlook, Prediction
from worldsize.scaling.interval import Interval, further_run, hull, interval_of
from worldsize.scaling.laws import LAWS, Floats, Scaling, Settings, settings
from worldsize.scaling.observations import Observation, too_few
from worldsize.scaling.regression import margin

NUM_DOUBLINGS = 3
GREATEST_STRETCH = 4  # times the largest measured number of devices
GREATEST_SPREAD = 1.5  # high / low of the interval of one further run
LEAST_DEVICE_COUNTS = 3  # two cannot tell a part that stays the same from a cost that grows
GREATEST_DISAGREEMENT = 0.2  # between laws that are possible
CLEAR_EVIDENCE = 4.0  # difference of the criterion from which one law is said to be better
SAME_EVIDENCE = 2.0  # up to which the law with fewer parameters is taken
FAR_BETTER = 10.0  # runs × log of the ratio of squared residuals from which a better fit rules a law out
NUM_BAND_POINTS = 25


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
        outlook=_outlook(best, fits) if best else [],
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
        if gap > CLEAR_EVIDENCE:
            text = f"{best.law.title} explains the step times better than {rival} (AICc lower by {gap:.1f}).{error}"
        else:
            text = f"{best.law.title} and {rival} fit about equally well (AICc differs by {abs(gap):.1f}).{error}"
    return f"{text} {chosen.misfit}" if chosen.misfit else text


def _possible(one: Estimate, ranked: list[Estimate]) -> bool:
    """Tell whether neither the law's own cells nor a law that fits far better rule it out."""
    least = min(other.squared_residual() for other in ranked)
    return not one.noise.is_misfit and one.num_runs * math.log(one.squared_residual() / least) <= FAR_BETTER


def _outlook(best: Estimate, fits: list[LawFit]) -> list[Outlook]:
    """Return for each curve the chosen law's doublings, with intervals that hold those of every possible law."""
    chosen = next(fit for fit in fits if fit.law == best.law.name)
    held = [fit for fit in fits if fit.is_possible or fit is chosen]
    outlooks = []
    for curve in chosen.curves:
        alike = [next(c for c in fit.curves if (c.series, c.batch) == (curve.series, curve.batch)) for fit in held]
        columns = zip(*(c.doublings for c in alike), strict=True)
        doublings = [_held_by_all(own, column) for own, column in zip(curve.doublings, columns, strict=True)]
        outlooks.append(
            Outlook(
                series=curve.series,
                batch=curve.batch,
                laws=[fit.law for fit in held],
                doublings=doublings,
                believable_to=_believable_to(curve.devices[-1], doublings),
            )
        )
    return outlooks


def _held_by_all(own: Prediction, predictions: Sequence[Prediction]) -> Prediction:
    step_time_s = hull(own.step_time_s, [one.step_time_s for one in predictions])
    speedup = hull(own.speedup, [one.speedup for one in predictions])
    doubt = own.doubt or _too_wide(step_time_s)
    return own.model_copy(update={"step_time_s": step_time_s, "speedup": speedup, "doubt": doubt})


def _believable_to(measured: int, doublings: Sequence[Prediction]) -> int:
    """Return the devices up to which no doubling is in doubt, at least those measured."""
    for prediction in doublings:
        if prediction.doubt:
            break
        measured = prediction.devices
    return measured


def _law_fit(one: Estimate, ranked: list[Estimate]) -> LawFit:
    weights = np.exp(-0.5 * np.array([other.aicc() - ranked[0].aicc() for other in ranked]))
    return LawFit(
        law=one.law.name,
        title=one.law.title,
        formula=one.law.formula,
        source=one.law.source,
        num_parameters=one.num_parameters,
        num_runs=one.num_runs,
        noise=one.noise.sd,
        aicc=one.aicc(),
        akaike_weight=float(weights[ranked.index(one)] / weights.sum()),
        leave_one_out_error=one.leave_one_out(),
        is_possible=_possible(one, ranked),
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
    return Curve(
        series=key[0],
        batch=key[1],
        devices=devices,
        parameters={name: interval_of(values) for name, values in parameters.items()},
        band=[BandPoint(devices=float(n), step_time_s=interval_of(t)) for n, t in zip(line, times, strict=True)],
        doublings=doublings,
        believable_to=_believable_to(devices[-1], doublings),
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
                doubt=_doubt(one, measured, devices, step_time_s)
                or _contradicted(one, ranked, key, devices, times[-1]),
            )
        )
    return predictions


def _doubt(one: Estimate, measured: Sequence[int], devices: int, step_time_s: Interval) -> str | None:
    """Return the first reason in the law itself not to believe a prediction, or None."""
    if one.noise.is_misfit:
        return f"{one.law.title} does not describe the cells that were measured"
    if len(set(measured)) < LEAST_DEVICE_COUNTS:
        return "two numbers of devices cannot tell a part that stays the same from a cost that grows: measure a third"
    if devices > GREATEST_STRETCH * max(measured):
        return f"more than {GREATEST_STRETCH} times the {max(measured)} devices that were measured"
    return _too_wide(step_time_s)


def _too_wide(step_time_s: Interval) -> str | None:
    if step_time_s.low and step_time_s.high is not None and step_time_s.high <= GREATEST_SPREAD * step_time_s.low:
        return None
    return f"the interval's ends differ by more than {GREATEST_SPREAD - 1:.0%}"


def _contradicted(
    one: Estimate, ranked: list[Estimate], key: tuple[str, float], devices: int, time_s: float
) -> str | None:
    """Return what another possible law says, when that is something else."""
    for other in ranked:
        if other is one or not _possible(other, ranked):
            continue
        block = next(b for b in other.blocks if key in _curve_keys(b.observations, one.scaling))
        at = _along(block, key, np.array([float(devices)]), one.scaling)
        rival_s = float(other.step_time_s(block, at)[0, -1])
        if max(rival_s, time_s) > (1 + GREATEST_DISAGREEMENT) * min(rival_s, time_s):
            return f"{other.law.title}, which is possible too, says {rival_s:.3g} s"
    return None
