"""What a planned training costs against the number of devices: device-hours, measured and predicted."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldsize.report import svg, theme
from worldsize.report.cost import Cost, Plan
from worldsize.report.figures import frame
from worldsize.report.numbers import PERCENT, Unit, count, interval_in_words
from worldsize.scaling.interval import Interval

Pick = Callable[[Cost], Interval | None]
HOURS = Unit(1.0, "device-hours")


def curves(plan: Plan) -> dict[str, list[Cost]]:
    """Return the costs by curve, by devices."""
    found: dict[str, list[Cost]] = {}
    for cost in sorted(plan.costs, key=lambda cost: cost.devices):
        found.setdefault(cost.curve, []).append(cost)
    return found


@theme.styled
def planned_cost(plan: Plan) -> Figure:
    """Device-hours against devices; filled marks were measured, open ones predicted, grey ones are not believable."""
    axes = _draw(plan, lambda cost: cost.device_h, HOURS)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [m * 10.0**k for k in range(-6, 12) for m in (1, 2, 3, 5, 7) if low <= m * 10.0**k <= high]
    axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylabel("device-hours of the planned training")
    return frame.figure_of(axes)


@theme.styled
def planned_efficiency(plan: Plan) -> Figure:
    """Efficiency against devices, to the requested size and beyond; marks as in `planned_cost`."""
    axes = _draw(plan, lambda cost: cost.efficiency, PERCENT)
    axes.axhline(100, color=theme.light("muted"), linewidth=0.9, dashes=(4, 3), zorder=1)
    axes.set_ylim(0, max(112.0, axes.get_ylim()[1]))
    axes.set_ylabel("efficiency (%)")
    return frame.figure_of(axes)


def _draw(plan: Plan, pick: Pick, unit: Unit) -> Axes:
    lines = curves(plan)
    marks = _marks(plan)
    axes = frame.frame(190, legend_rows=frame.legend_rows([*lines, *frame.names_of(marks)]), left_pt=48)
    axes.grid(axis="y")
    handles = []
    for index, (name, costs) in enumerate(lines.items()):
        colour, marker = theme.series_colour(index), theme.MARKERS[index % len(theme.MARKERS)]
        for cost in costs:
            _point(axes, cost, pick(cost), unit, colour, marker)
        known = [(c.devices, value) for c in costs if (value := _middle(pick(c))) is not None]
        axes.plot([x for x, _ in known], [y * unit.factor for _, y in known], color=colour, linewidth=0.8, alpha=0.5)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=0.8, label=name))
    frame.legend(axes, [*handles, *marks])
    _device_axis(axes, plan)
    return axes


def _middle(interval: Interval | None) -> float | None:
    return interval.value if interval else None


def _point(axes: Axes, cost: Cost, value: Interval | None, unit: Unit, colour: str, marker: str) -> None:
    if value is None or value.value is None:
        return
    own = theme.light("muted") if cost.doubt else colour
    if value.low is not None and value.high is not None:
        ends = [value.low * unit.factor, value.high * unit.factor]
        axes.plot([cost.devices] * 2, ends, color=own, linewidth=1.6, alpha=0.55, zorder=3)
    (dot,) = axes.plot([cost.devices], [value.value * unit.factor], color=own, marker=marker, markersize=5, zorder=4)
    dot.set_markerfacecolor(own if cost.basis == "measured" else theme.light("paper"))
    doubt = f"; not believable: {cost.doubt}" if cost.doubt else ""
    svg.tip(
        dot, f"{cost.curve}, {count(cost.devices, 'device')}, {cost.basis}: {interval_in_words(value, unit)}{doubt}"
    )


def _marks(plan: Plan) -> list[Line2D]:
    """Return handles for the kinds of marks that occur."""
    muted, paper = theme.light("muted"), theme.light("paper")
    handles = []
    if any(cost.basis == "predicted" for cost in plan.costs):
        handles.append(Line2D([], [], color=theme.light("ink"), marker="o", markersize=4.5, linestyle="none",
                              markerfacecolor=paper, label="predicted"))  # fmt: skip
    if any(cost.doubt for cost in plan.costs):
        handles.append(Line2D([], [], color=muted, marker="o", markersize=4.5, linestyle="none",
                              markerfacecolor=paper, label="not believable"))  # fmt: skip
    return handles


def _device_axis(axes: Axes, plan: Plan) -> None:
    sizes = sorted({cost.devices for cost in plan.costs})
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("devices")
    if plan.request.devices:
        axes.axvline(plan.request.devices, color=theme.light("rule"), linewidth=3.5, alpha=0.6, zorder=0)
