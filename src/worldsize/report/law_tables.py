"""Scaling laws as tables: the evidence for each, its parameters, and what it says of the next doublings. Torch-free."""

from __future__ import annotations

from worldsize.report.curves import curve_label
from worldsize.report.numbers import MICROSECONDS, PERCENT, Unit, time_unit
from worldsize.report.rows import Column, Table, Value, number_column, value, words
from worldsize.scaling.fit_records import LawFit, LawFits, Prediction
from worldsize.scaling.interval import Interval

PARAMETERS = {
    "t1_s": "time on one device",
    "serial_fraction": "serial fraction s",
    "greatest_speedup": "greatest speedup, 1 / s",
    "sigma": "contention σ",
    "kappa": "coherency κ",
    "devices_at_greatest_rate": "devices at the greatest rate",
    "seconds_per_sample": "compute per sample c",
    "fixed_s": "fixed cost",
    "beta_bytes_per_s": "bandwidth β",
    "alpha_s": "latency α",
}
"""What the laws' parameters are called."""


def capital(text: str) -> str:
    """Return `text` with a large first letter: 'The universal scalability law'."""
    return text[:1].upper() + text[1:]


def evidence(fits: LawFits) -> Table:
    """Return every law that was fitted, best evidence first."""
    laws = fits.fits
    spared = [fit.leave_one_out_error for fit in laws]
    none = ["no cell can be spared by this law"] * len(laws)
    return Table(
        "Laws held against the cells, best evidence first. Scatter: of one run about the law. Weight: share of the "
        "evidence (AICc). Left out: error where each cell is predicted from the others.",
        [
            Column("law", "law", "", [_law(fit, fits) for fit in laws], numeric=False, is_key=True),
            number_column("num_parameters", "parameters", Unit(1, ""), [fit.num_parameters for fit in laws], none),
            number_column("noise", "scatter", PERCENT, [fit.noise for fit in laws], none),
            number_column("aicc", "AICc", Unit(1, ""), [fit.aicc for fit in laws], none),
            Column("akaike_weight", "weight", "%", [_weight(fit) for fit in laws]),
            number_column("leave_one_out_error", "left out", PERCENT, spared, none),
            words("is_possible", "possible", ["yes" if fit.is_possible else "no" for fit in laws]),
        ],
    )


def _law(fit: LawFit, fits: LawFits) -> Value:
    """Return the law's name, with its formula, its source and what speaks against it as remark."""
    chosen = " (chosen)" if fit.law == fits.best else ""
    misfit = f" {fit.misfit}" if fit.misfit else ""
    return Value(f"{capital(fit.title)}{chosen}", remark=f"{capital(fit.title)}: {fit.formula} ({fit.source}).{misfit}")


def _weight(fit: LawFit) -> Value:
    text = f"{100 * fit.akaike_weight:.1f}" if fit.akaike_weight >= 0.0005 else "< 0.1"
    return Value(text, fit.akaike_weight)


def parameters(fits: LawFits) -> Table:
    """Return the chosen law's parameters with their intervals, curve by curve."""
    chosen = next(fit for fit in fits.fits if fit.law == fits.best)
    curves = chosen.curves
    shared = len(curves) > 1 and all(curve.parameters == curves[0].parameters for curve in curves)
    found = [
        ("all" if shared else curve_label(fits.scaling, curve.series, curve.batch), name, interval)
        for curve in (curves[:1] if shared else curves)
        for name, interval in curve.parameters.items()
    ]
    units = [_unit(name, interval) for _, name, interval in found]
    return Table(
        f"Parameters of {chosen.title}, {chosen.formula}, with 95 % intervals.",
        [
            words("curve", "curve", [label for label, _, _ in found]),
            words("parameter", "parameter", [PARAMETERS.get(name, name) for _, name, _ in found]),
            Column("value", "value", "", [value(x, u, "") for (_, _, x), u in zip(found, units, strict=True)]),
            words("unit", "unit", [unit.name or "1" for unit in units]),
        ],
    )


def _unit(name: str, interval: Interval) -> Unit:
    """Return the unit in which a parameter is read, by the ending of its name."""
    if name == "serial_fraction":
        return PERCENT
    if name.endswith("_bytes_per_s"):
        return Unit(1e-9, "GB/s") if (interval.value or 1e12) >= 1e9 else Unit(1e-6, "MB/s")
    if name.endswith("_s") or name.startswith("seconds"):
        biggest = interval.value or interval.high or 0.0
        return time_unit([biggest]) if biggest else MICROSECONDS
    return Unit(1, "×") if name == "greatest_speedup" else Unit(1, "")


def doublings(fits: LawFits) -> Table | None:
    """Return what the laws say of the next doublings; None where they say nothing."""
    found = [(one, prediction) for one in fits.outlook for prediction in one.doublings]
    if not found:
        return None
    predictions = [prediction for _, prediction in found]
    unit = time_unit(p.step_time_s.value or 0.0 for p in predictions)
    labels = [curve_label(fits.scaling, one.series, one.batch) for one, _ in found]
    none = ["the law gives no limit"] * len(found)
    return Table(
        "The next doublings: where one further run will fall (95 %), by the chosen law, with intervals that hold every "
        "law that is possible.",
        [
            words("curve", "curve", labels),
            number_column("devices", "devices", Unit(1, ""), [p.devices for p in predictions], none),
            number_column("step_time_s", "step time", unit, [p.step_time_s for p in predictions], none),
            number_column("speedup", "speedup", Unit(1, "×"), [p.speedup for p in predictions], none),
            Column("believable", "believable", "", [_believable(p) for p in predictions], numeric=False),
        ],
    )


def _believable(prediction: Prediction) -> Value:
    if not prediction.doubt:
        return Value("yes")
    return Value("no", remark=capital(prediction.doubt.rstrip(".")) + ".")


def limits(fits: LawFits) -> list[str]:
    """Return a sentence for each curve on how far to believe it."""
    return [
        f"{capital(curve_label(fits.scaling, one.series, one.batch))}: believable to {one.believable_to:,} devices."
        for one in fits.outlook
    ]
