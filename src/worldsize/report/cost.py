"""What a planned training costs at each number of devices: measured where it was, predicted where it was not, and
never extrapolated in silence. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from worldsize.errors import UserError
from worldsize.records import Measured, Record
from worldsize.report import labels
from worldsize.report.curves import batch_of, is_on
from worldsize.scaling.fit_records import LawFits, Outlook, Prediction
from worldsize.scaling.interval import Interval
from worldsize.study.records import CellResult, StudyResult

S_PER_HOUR = 3600.0


class Request(Record):
    """What is applied for. Either steps or tokens, or neither: then only efficiency is told."""

    devices: int | None = None
    steps: int | None = None
    tokens: int | None = None


class Cost(Record):
    """One number of devices on one curve."""

    curve: str = Field(description="what stays the same along it, in words")
    devices: int
    global_batch: int
    basis: Literal["measured", "predicted"]
    step_time_s: Interval = Field(
        description="measured: the median's 95 % interval; predicted: where one further run falls"
    )
    efficiency: Interval | None = Field(description="against the curve's smallest number of devices")
    efficiency_absent_because: str | None = None
    num_steps: int | None = Field(None, description="of the planned training at this batch")
    wall_h: Interval | None = None
    device_h: Interval | None = None
    doubt: str | None = Field(None, description="why this is not believable, or None")
    note: str | None = Field(None, description="how a number between two others was found")


class Plan(Record):
    """The costs of a request, and what could not be told."""

    request: Request
    costs: list[Cost]
    not_known: list[str] = Field(description="sentences: curves that say nothing of the requested devices")

    def at_request(self) -> list[Cost]:
        """Return the costs at the requested number of devices, the fewest device-hours first."""
        found = [cost for cost in self.costs if cost.devices == self.request.devices]
        return sorted(found, key=lambda cost: (cost.doubt is not None, _hours(cost)))


def _hours(cost: Cost) -> float:
    return cost.device_h.value if cost.device_h and cost.device_h.value is not None else math.inf


def check(request: Request) -> None:
    """Raise UserError for a request that nobody could be granted."""
    if request.steps is not None and request.tokens is not None:
        raise UserError("--steps and --tokens were both given, and each says how long to train. Give one of them.")
    for name in ("devices", "steps", "tokens"):
        number = getattr(request, name)
        if number is not None and not 1 <= number < 2**63:
            raise UserError(f"--{name} is {number}. Give a number from 1 up.")


def plan(result: StudyResult, request: Request) -> Plan:
    """Return the cost of the request at every number of devices that was measured or that the fitted laws reach."""
    costs: list[Cost] = []
    not_known: list[str] = []
    for line in labels.series(result):
        cells = [cell for cell in line.cells if cell.step_time_s]
        if not cells:
            continue
        outlook = _outlook(result.fits, cells[0], result)
        points = [_measured(line.label, cell) for cell in cells]
        doublings = outlook.doublings if outlook else []
        points += [_predicted(line.label, cells, prediction) for prediction in doublings]
        wanted = request.devices
        if wanted is not None and wanted not in {point.devices for point in points}:
            between = _between(result, points, wanted)
            if between:
                points.append(between)
            else:
                not_known.append(f"{line.label}: {_why_not(result.fits, points, wanted)}")
        tokens_of = _tokens_a_step(cells[0])
        points.sort(key=lambda point: point.devices)
        costs += [_priced(point, request, tokens_of(point)) for point in points]
    return Plan(request=request, costs=costs, not_known=not_known)


def _outlook(fits: LawFits | None, cell: CellResult, result: StudyResult) -> Outlook | None:
    """Return what the fitted laws say of the cell's curve."""
    if fits is None:
        return None
    batch = batch_of(result.scaling, cell)
    return next((one for one in fits.outlook if one.batch == batch and is_on(cell, one.series)), None)


def _measured(curve: str, cell: CellResult) -> Cost:
    assert cell.step_time_s is not None
    known = cell.efficiency or labels.baseline_point(cell)
    return Cost(
        curve=curve,
        devices=cell.world_size,
        global_batch=cell.global_batch,
        basis="measured",
        step_time_s=_interval(cell.step_time_s),
        efficiency=_interval(known) if known else None,
        efficiency_absent_because=None if known else labels.not_compared(cell),
        doubt="the comparison was refused, and is printed by override" if cell.overridden else None,
    )


def _interval(value: Measured) -> Interval:
    return Interval(value=value.median, low=value.low, high=value.high)


def _predicted(curve: str, cells: Sequence[CellResult], prediction: Prediction) -> Cost:
    share = cells[0].world_size / prediction.devices
    return Cost(
        curve=curve,
        devices=prediction.devices,
        global_batch=prediction.global_batch,
        basis="predicted",
        step_time_s=prediction.step_time_s,
        efficiency=_map(prediction.speedup, lambda speedup: speedup * share),
        doubt=prediction.doubt,
    )


def _between(result: StudyResult, points: Sequence[Cost], devices: int) -> Cost | None:
    """Return a point between two known ones, on a straight line in log devices and log time; None outside of them."""
    below = max((p for p in points if p.devices < devices), key=lambda p: p.devices, default=None)
    above = min((p for p in points if p.devices > devices), key=lambda p: p.devices, default=None)
    if below is None or above is None:
        return None
    share = math.log(devices / below.devices) / math.log(above.devices / below.devices)
    batch = below.global_batch if result.scaling == "strong" else below.global_batch // below.devices * devices
    pairs = [(below.efficiency, above.efficiency)] if below.efficiency and above.efficiency else []
    return Cost(
        curve=below.curve,
        devices=devices,
        global_batch=batch,
        basis="predicted",
        step_time_s=_mixed(below.step_time_s, above.step_time_s, share),
        efficiency=_mixed(*pairs[0], share) if pairs else None,
        efficiency_absent_because=None if pairs else "a neighbour has none",
        doubt=above.doubt or below.doubt,
        note=f"between {below.devices} ({below.basis}) and {above.devices} ({above.basis}) devices, along a straight "
        "line in log time over log devices",
    )


def _mixed(below: Interval, above: Interval, share: float) -> Interval:
    """Return the geometric mean of two intervals, end by end; an end that either lacks is missing."""

    def mean(low: float | None, high: float | None) -> float | None:
        return low ** (1 - share) * high**share if low is not None and high is not None else None

    return Interval(
        value=mean(below.value, above.value), low=mean(below.low, above.low), high=mean(below.high, above.high)
    )


def _why_not(fits: LawFits | None, points: Sequence[Cost], devices: int) -> str:
    """Return why nothing is said of so many devices, and what would help."""
    sizes = sorted({point.devices for point in points if point.basis == "measured"})
    reach = max(point.devices for point in points)
    measured = f"{', '.join(map(str, sizes))} measured"
    if devices < sizes[0]:
        return f"{devices} devices are fewer than any measured ({measured})."
    if fits is None or fits.best is None:
        return f"nothing is said of {devices} devices: no scaling law was fitted ({measured}); measure more sizes."
    return f"{devices} devices lie beyond what the laws say anything of ({measured}, predictions to {reach})."


def _tokens_a_step(cell: CellResult) -> Callable[[Cost], float]:
    """Return what gives the target tokens of one step at a point of the cell's curve."""
    assert cell.step_time_s is not None
    assert cell.tokens_per_s is not None
    per_sample = cell.tokens_per_s.median * cell.step_time_s.median / cell.global_batch
    return lambda cost: per_sample * cost.global_batch


def _priced(cost: Cost, request: Request, tokens_a_step: float) -> Cost:
    """Add what the planned training takes at this point."""
    if request.tokens is not None:
        num_steps = math.ceil(request.tokens / tokens_a_step)
    elif request.steps is not None:
        num_steps = request.steps
    else:
        return cost
    wall_h = _map(cost.step_time_s, lambda step_s: step_s * num_steps / S_PER_HOUR)
    device_h = _map(wall_h, lambda hours: hours * cost.devices)
    return cost.model_copy(update={"num_steps": num_steps, "wall_h": wall_h, "device_h": device_h})


def _map(interval: Interval, change: Callable[[float], float]) -> Interval:
    values = (interval.value, interval.low, interval.high)
    value, low, high = (None if each is None else change(each) for each in values)
    return Interval(value=value, low=low, high=high)
