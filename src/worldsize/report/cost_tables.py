"""Costs as tables: the request, and every size. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from worldsize.report.cost import Cost
from worldsize.report.law_tables import capital
from worldsize.report.numbers import PERCENT, Unit, time_unit
from worldsize.report.rows import Column, Table, Value, number_column, words

NOT_ASKED = "no length of training was asked for: give --steps or --tokens"


def requested(costs: Sequence[Cost]) -> Table:
    """Return the request, a row a curve."""
    return Table(
        "The request: 95 % intervals beneath. Measured: of the median over repeats; predicted: of one further run.",
        _columns(costs),
    )


def costs(all_costs: Sequence[Cost]) -> Table:
    """Return every size that was measured or that the laws reach."""
    return Table(
        "Cost of the planned training at every size that was measured or that the fitted laws say something of.",
        _columns(all_costs),
    )


def _columns(costs: Sequence[Cost]) -> list[Column]:
    unit = time_unit(cost.step_time_s.value or 0.0 for cost in costs)
    because = [NOT_ASKED] * len(costs)
    absent = [cost.efficiency_absent_because or "it was not compared" for cost in costs]
    columns = [
        words("curve", "curve", [cost.curve for cost in costs]),
        number_column("devices", "devices", Unit(1, ""), [cost.devices for cost in costs], because),
        Column("basis", "basis", "", [_basis(cost) for cost in costs], numeric=False),
        number_column("step_time_s", "step time", unit, [cost.step_time_s for cost in costs], because),
        number_column("efficiency", "efficiency", PERCENT, [cost.efficiency for cost in costs], absent),
    ]
    if any(cost.num_steps for cost in costs):
        columns += [
            number_column("num_steps", "steps", Unit(1, ""), [cost.num_steps for cost in costs], because),
            number_column("wall_h", "wall time", Unit(1, "h"), [cost.wall_h for cost in costs], because),
            number_column("device_h", "cost", Unit(1, "device-hours"), [cost.device_h for cost in costs], because),
        ]
    return columns


def _basis(cost: Cost) -> Value:
    """Return 'measured', 'predicted' or 'not believable', with the reason and the way as a remark."""
    said = [f"Not believable: {cost.doubt.rstrip('.')}."] if cost.doubt else []
    said += [f"{capital(cost.note)}."] if cost.note else []
    return Value("not believable" if cost.doubt else cost.basis, remark=" ".join(said))
