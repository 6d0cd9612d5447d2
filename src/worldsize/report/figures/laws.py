"""Scaling laws held against the cells: the chosen law with its band, the measured repeats, and the next doublings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from worldsize.report import svg, theme
from worldsize.report.curves import curve_label, measured_cells
from worldsize.report.figures import frame
from worldsize.report.numbers import Unit, count, in_words, interval_in_words, time_unit
from worldsize.scaling.fit_records import BandPoint, Curve, LawFit, LawFits, Outlook
from worldsize.study.records import CellResult, StudyResult

MOST_CURVES = 4


def chosen(fits: LawFits) -> LawFit:
    """Return the law that the evidence chose; there must be one."""
    return next(fit for fit in fits.fits if fit.law == fits.best)


def rivals(fits: LawFits) -> list[LawFit]:
    """Return the other laws that are possible."""
    return [fit for fit in fits.fits if fit.is_possible and fit.law != fits.best]


def shown_curves(fits: LawFits) -> list[Curve]:
    """Return the curves that the figure draws: all, or of many those that are spread from first to last."""
    curves = chosen(fits).curves
    if len(curves) <= MOST_CURVES:
        return curves
    return [curves[round(index)] for index in np.linspace(0, len(curves) - 1, MOST_CURVES)]


@theme.styled
def laws(result: StudyResult) -> Figure:
    """Step time against devices under the chosen law; grey and hatched where it is not believable."""
    fits = result.fits
    assert fits is not None
    curves = shown_curves(fits)
    alone = len(curves) == 1
    others = rivals(fits) if alone else []
    unit = time_unit(point.step_time_s.value or 0.0 for curve in curves for point in curve.band)
    handles = [*_curve_handles(fits, curves), *_rival_handles(others), *_fixed_handles(fits, curves)]
    axes = frame.frame(210, legend_rows=frame.legend_rows(frame.names_of(handles)), left_pt=46)
    axes.grid(axis="y")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for index, fit in enumerate(others, start=1):
        _line(axes, fit.curves[0].band, unit, color=theme.light("muted"), dashes=theme.DASHES[index % 4])
    for index, curve in enumerate(curves):
        outlook = next((o for o in fits.outlook if (o.series, o.batch) == (curve.series, curve.batch)), None)
        cells = measured_cells(result, curve.series, curve.batch)
        _curve(axes, curve, outlook, cells, unit, theme.series_colour(index), theme.MARKERS[index])
    _ticks(axes, curves)
    frame.legend(axes, handles)
    axes.set_xlabel("devices")
    axes.set_ylabel(f"step time ({unit.name})")
    return frame.figure_of(axes)


def _curve(
    axes: Axes,
    curve: Curve,
    outlook: Outlook | None,
    cells: Sequence[CellResult],
    unit: Unit,
    colour: str,
    marker: str,
) -> None:
    """Draw a curve's ideal, its band and line, every measured repeat, and the predictions with their intervals."""
    limit = outlook.believable_to if outlook else curve.believable_to
    known = sum(point.devices <= limit * 1.001 for point in curve.band)
    believable, beyond = curve.band[:known], curve.band[max(known - 1, 0) :]
    _ideal(axes, curve, unit, colour)
    _band(axes, believable, unit, colour=colour)
    _band(axes, beyond, unit, colour=None)
    _line(axes, believable, unit, color=colour)
    _line(axes, beyond, unit, color=theme.light("muted"))
    for cell in cells:
        assert cell.step_time_s is not None
        samples = [sample * unit.factor for sample in cell.step_time_s.samples]
        (dots,) = axes.plot([cell.world_size] * len(samples), samples, linestyle="none", marker=marker, color=colour)
        dots.set(markersize=4.2, markeredgecolor=theme.light("paper"), markeredgewidth=0.5, zorder=5)
        svg.tip(dots, f"{count(cell.world_size, 'device')}, measured: {in_words(cell.step_time_s, unit)}")
    for prediction in outlook.doublings if outlook else []:
        time = prediction.step_time_s
        if time.value is None:
            continue
        own = theme.light("muted") if prediction.doubt else colour
        if time.low is not None and time.high is not None:
            ends = [time.low * unit.factor, time.high * unit.factor]
            axes.plot([prediction.devices] * 2, ends, color=own, linewidth=1.4, alpha=0.7, zorder=4)
        (dot,) = axes.plot([prediction.devices], [time.value * unit.factor], marker=marker, color=own, markersize=4.6)
        dot.set(markerfacecolor=theme.light("paper"), zorder=5)
        doubt = f"; not believable: {prediction.doubt}" if prediction.doubt else ""
        words = f"{count(prediction.devices, 'device')}, predicted: {interval_in_words(time, unit)}{doubt}"
        svg.tip(dot, words)


def _band(axes: Axes, points: Sequence[BandPoint], unit: Unit, *, colour: str | None) -> None:
    """Fill between the ends of the law's own interval; hatched grey where `colour` is None: not believable."""
    kept = [p for p in points if p.step_time_s.low and p.step_time_s.high is not None]
    if len(kept) < 2:
        return
    low = [(p.step_time_s.low or 0.0) * unit.factor for p in kept]
    high = [(p.step_time_s.high or 0.0) * unit.factor for p in kept]
    area = axes.fill_between([p.devices for p in kept], low, high, linewidth=0, zorder=1)
    if colour is None:
        area.set(facecolor="none", edgecolor=theme.light("rule"), hatch="////")
    else:
        area.set(facecolor=colour, alpha=0.18)


def _line(
    axes: Axes,
    points: Sequence[BandPoint],
    unit: Unit,
    *,
    color: str,
    dashes: tuple[float, tuple[float, ...]] = theme.DASHES[0],
) -> None:
    kept = [(p.devices, p.step_time_s.value * unit.factor) for p in points if p.step_time_s.value]
    axes.plot([x for x, _ in kept], [y for _, y in kept], color=color, linewidth=1.1, linestyle=dashes, zorder=3)


def _ideal(axes: Axes, curve: Curve, unit: Unit, colour: str) -> None:
    """Draw what the law's first point would become were nothing lost: T / n for equal work, T where work grows."""
    first, last = curve.band[0], curve.band[-1]
    if not first.step_time_s.value:
        return
    start = first.step_time_s.value * unit.factor
    end = start * first.devices / last.devices if _is_strong(curve) else start
    axes.plot([first.devices, last.devices], [start, end], color=colour, linewidth=0.8, dashes=(4, 3), alpha=0.6)


def _is_strong(curve: Curve) -> bool:
    """Whether the curve's predictions keep the global batch as devices are added."""
    return all(prediction.global_batch == curve.batch for prediction in curve.doublings)


def _ticks(axes: Axes, curves: Sequence[Curve]) -> None:
    devices = sorted({n for curve in curves for n in (*curve.devices, *(p.devices for p in curve.doublings))})
    axes.set_xticks(devices, [str(n) for n in devices])
    low, high = axes.get_ylim()
    steps = [m * 10.0**k for k in range(-4, 7) for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    axes.set_yticks(steps, [f"{step:g}" for step in steps])
    axes.minorticks_off()


def _curve_handles(fits: LawFits, curves: Sequence[Curve]) -> list[Line2D]:
    best = chosen(fits)
    if len(curves) == 1:
        names = [best.title]
    else:
        names = [curve_label(fits.scaling, curve.series, curve.batch) for curve in curves]
    return [
        Line2D([], [], color=theme.series_colour(i), marker=theme.MARKERS[i], markersize=4.2, linewidth=1.1, label=name)
        for i, name in enumerate(names)
    ]


def _rival_handles(others: Sequence[LawFit]) -> list[Line2D]:
    return [
        Line2D([], [], color=theme.light("muted"), linewidth=1.1, linestyle=theme.DASHES[i % 4], label=fit.title)
        for i, fit in enumerate(others, start=1)
    ]


def _fixed_handles(fits: LawFits, curves: Sequence[Curve]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=theme.light("muted"), linewidth=0.8, dashes=(4, 3), label="ideal")
    ]
    limits = {(o.series, o.batch): o.believable_to for o in fits.outlook}
    if any(curve.band[-1].devices > limits.get((curve.series, curve.batch), curve.believable_to) for curve in curves):
        patch = Patch(facecolor="none", edgecolor=theme.light("rule"), hatch="//////", linewidth=0)
        patch.set_label("not believable")
        handles.append(patch)
    return handles
