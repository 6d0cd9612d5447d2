"""What would happen at another batch, on more devices, with a smaller payload or a faster link: from this very study.

The model of a step (docs/explain/what-if.md):
    step = local + exposed communication
    local = a b + f + m micro + c b log2(n)         b: samples per device, micro: micro batches per step
    exposed = max(0, l 2 (n - 1) + r 2 (n - 1) / n payload + w work - h hideable)
    work = a b + c b log2(n), hideable = 2/3 work / micro: the backward pass of the last micro batch, under which the
    exchange can run (forward : backward = 1 : 2)
All coefficients are >= 0 and fitted to the phases of the study's repeats; a coefficient that the cells cannot tell
from the others is left out, and the answer says so. `c` is what devices that share memory lose to each other, `w` what
waiting for the slowest rank adds. Where only one number of devices above one was measured, latency and link cannot be
told apart: the interval then spans all shares from none to all. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from worldsize.errors import UserError
from worldsize.records import PHASES, Record
from worldsize.scaling.interval import Interval
from worldsize.scaling.laws import Floats, Scaling
from worldsize.scaling.phases_fit import Exposed, Local, Place, fit_exposed, fit_local, run_margin

EXPOSED = "exposed_communication_s"
GREATEST_STRETCH = 4.0


@dataclass(frozen=True)
class CellPhases:
    """One cell's phases: a mapping a repeat, summing to its step time. Raises UserError on bad numbers."""

    devices: int
    global_batch: int
    phases_s: Sequence[Mapping[str, float]]
    payload_bytes: float = 0.0  # that one rank hands to the all-reduce in one step
    num_micro: int = 1  # micro batches per step and device

    def __post_init__(self) -> None:
        where = f"the cell at {self.devices} devices and global batch {self.global_batch}"
        if min(self.devices, self.global_batch, self.num_micro) < 1 or not self.phases_s:
            raise UserError(f"{where}: devices, batch, micro batches and repeats must be 1 or more.")
        for repeat, phases in enumerate(self.phases_s):
            unknown = set(phases) - set(PHASES)
            bad = [name for name, value in phases.items() if not (math.isfinite(value) and value >= 0)]
            if unknown or bad or not sum(phases.values()) > phases.get(EXPOSED, 0.0):
                raise UserError(
                    f"{where}, repeat {repeat}: phases {dict(phases)} are not possible. Give seconds, finite and not "
                    f"negative, of {', '.join(PHASES)}; not all of them communication."
                )

    @property
    def place(self) -> Place:
        return Place(self.devices, self.global_batch / self.devices, self.num_micro, self.payload_bytes)

    def local_s(self) -> Floats:
        return self.step_s() - self.exposed_s()

    def exposed_s(self) -> Floats:
        return np.array([phases.get(EXPOSED, 0.0) for phases in self.phases_s])

    def step_s(self) -> Floats:
        return np.array([sum(phases.values()) for phases in self.phases_s])


@dataclass(frozen=True)
class Scenario:
    """What is asked. Factors are relative to the study: payload_factor 0.5 is bf16 instead of fp32 gradients."""

    devices: int
    global_batch: int
    num_micro: int = 1
    payload_factor: float = 1.0
    link_factor: float = 1.0  # 2 = a link of twice the speed; latency stays


class WhatIf(Record):
    """An answer. Intervals say where one further run will fall, if the assumptions hold."""

    devices: int
    global_batch: int
    num_micro: int
    payload_factor: float
    link_factor: float
    step_time_s: Interval | None = Field(description="None: see absent_because")
    samples_per_s: Interval | None = None
    speedup: Interval | None = Field(
        None,
        description="over the smallest number of devices at the same global batch; weak scaling: of the rate, at the "
        "same per-device batch (scaled speedup)",
    )
    exposed_communication_s: Interval | None = Field(None, description="of the step, without the scatter of a run")
    absent_because: str | None = None
    assumptions: list[str] = Field(description="sentences; what the study could not tell is named")
    doubt: str | None = Field(None, description="why this is further than the study reaches, or None")


@dataclass(frozen=True)
class StudyModel:
    """The fitted model of one study; `num_slots` is how many devices there really are (None: as many as asked)."""

    cells: Sequence[CellPhases]
    local: Local
    exposed: Exposed | None
    run_margin: float  # t × relative scatter of one run's step time
    num_slots: int | None = None
    scaling: Scaling = "strong"

    @property
    def baseline_devices(self) -> int:
        return min(cell.devices for cell in self.cells)

    def place(self, scenario: Scenario) -> Place:
        payload = max((cell.payload_bytes for cell in self.cells if cell.devices > 1), default=0.0)
        return Place(
            scenario.devices,
            scenario.global_batch / scenario.devices,
            scenario.num_micro,
            payload * scenario.payload_factor,
            scenario.link_factor,
            max(1.0, scenario.devices / self.num_slots) if self.num_slots else 1.0,
        )

    def predict(self, scenario: Scenario) -> WhatIf:
        """Return the answer to one scenario. Raises UserError on a scenario that is not possible."""
        _check(scenario)
        reason = self._absent(scenario)
        asked = {name: getattr(scenario, name) for name in scenario.__dataclass_fields__}
        if reason:
            return WhatIf(**asked, step_time_s=None, absent_because=reason, assumptions=[])
        place = self.place(scenario)
        times = self._step_arms(place)
        speedups = self._speedup_arms(scenario, times)
        step_time_s = _combined(times, self.run_margin)
        exposed = self._exposed_s(place)
        return WhatIf(
            **asked,
            step_time_s=step_time_s,
            samples_per_s=_combined([scenario.global_batch / time for time in times], self.run_margin),
            speedup=_combined(speedups, self.run_margin),
            exposed_communication_s=Interval(value=exposed[-1], low=exposed.min(), high=exposed.max()),
            assumptions=self._assumptions(scenario),
            doubt=self._doubt(scenario),
        )

    def _exposed_s(self, place: Place) -> Floats:
        """Return exposed seconds for every allowed exchange at the best work, the best last."""
        if place.devices == 1 or self.exposed is None:
            return np.zeros(1)
        return self.exposed.seconds(place, self.local.work_s(place)[-1])

    def _step_arms(self, place: Place) -> list[Floats]:
        """Return step times for every allowed local part at the best exchange, and the other way round; bests last."""
        local, exposed = self.local.seconds(place), self._exposed_s(place)
        return [local + exposed[-1], local[-1] + exposed]

    def _speedup_arms(self, scenario: Scenario, times: list[Floats]) -> list[Floats]:
        """Return the baseline's step times over these; under weak scaling, rate over rate at one per-device batch."""
        grown = scenario.devices / self.baseline_devices if self.scaling == "weak" else 1.0
        base = self.place(Scenario(self.baseline_devices, scenario.global_batch, scenario.num_micro))
        base = replace(base, per_device_batch=base.per_device_batch / grown)
        return [grown * above / below for above, below in zip(self._step_arms(base), times, strict=True)]

    def _absent(self, scenario: Scenario) -> str | None:
        if scenario.devices > 1 and not any(cell.devices > 1 for cell in self.cells):
            return "no cell of this study has more than one device, so nothing is known of its communication"
        if scenario.devices > 1 and self.exposed is None:
            return "all communication of this study was hidden under compute, so its length is not known"
        return None

    def _doubt(self, scenario: Scenario) -> str | None:
        devices = max(cell.devices for cell in self.cells)
        if scenario.devices > GREATEST_STRETCH * devices:
            return f"more than {GREATEST_STRETCH:g} times the {devices} devices that were measured"
        batches = [cell.place.per_device_batch for cell in self.cells]
        batch = scenario.global_batch / scenario.devices
        if not min(batches) / GREATEST_STRETCH <= batch <= GREATEST_STRETCH * max(batches):
            return f"{batch:g} samples per device are more than {GREATEST_STRETCH:g} times outside what was measured"
        return None

    def _assumptions(self, scenario: Scenario) -> list[str]:
        said = list(self.local.assumptions)
        if scenario.devices > 1 and self.exposed is not None:
            said += self.exposed.assumptions
        if scenario.payload_factor != 1:
            said.append("Converting the gradients to and from the smaller type costs nothing.")
        if self.num_slots and scenario.devices > self.num_slots:
            said.append(
                f"{scenario.devices} ranks take turns on {self.num_slots} devices: their own work takes "
                f"{scenario.devices / self.num_slots:g} times as long."
            )
        return said


def fit_study(cells: Sequence[CellPhases], num_slots: int | None = None, scaling: Scaling = "strong") -> StudyModel:
    """Fit the model to a study's cells, all of one model and one set of settings.

    Raises UserError when there are not enough runs for even the simplest form (work per sample and a fixed cost).
    """
    local = fit_local([cell.place for cell in cells], [cell.local_s() for cell in cells])
    spread = [cell for cell in cells if cell.devices > 1]
    exposed = fit_exposed(
        [cell.place for cell in spread],
        [cell.exposed_s() for cell in spread],
        [cell.step_s() for cell in spread],
        [float(local.work_s(cell.place)[-1]) for cell in spread],
    )
    scatter = run_margin([cell.step_s() for cell in cells], local.noise)
    return StudyModel(cells, local, exposed, scatter, num_slots, scaling)


def usual_questions(model: StudyModel, devices: int, global_batch: int, num_micro: int = 1) -> list[WhatIf]:
    """Return what a reader asks next about a cell: larger batches, smaller gradients, a faster link, accumulation."""
    asked = [Scenario(devices, global_batch * factor, num_micro) for factor in (1, 2, 4)]
    asked.append(Scenario(devices, global_batch, num_micro, payload_factor=0.5))
    asked.append(Scenario(devices, global_batch, num_micro, link_factor=2.0))
    asked.append(Scenario(devices, global_batch * 4, num_micro * 4))
    return [model.predict(scenario) for scenario in asked]


def _check(scenario: Scenario) -> None:
    counts = scenario.devices, scenario.global_batch, scenario.num_micro
    factors = scenario.payload_factor, scenario.link_factor
    if min(counts) < 1 or scenario.global_batch < scenario.devices * scenario.num_micro:
        raise UserError(
            f"{scenario.global_batch} samples cannot be shared by {scenario.devices} devices × {scenario.num_micro} "
            f"micro batches. Ask for a global batch of {scenario.devices * scenario.num_micro} or more."
        )
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise UserError(f"factors of payload and link are finite and above 0; given {factors}.")


def _combined(arms: list[Floats], margin: float) -> Interval:
    """Return the interval whose distance from the best value is, on each side, the root of the arms' squared distances.

    In log time, with a run's scatter as one more arm (the MOVER of Zou & Donner, Statistics in Medicine 27, 2008).
    """
    best = float(arms[0][-1])
    down = math.hypot(margin, *(math.log(best / max(float(arm.min()), best * 1e-9)) for arm in arms))
    up = math.hypot(margin, *(math.log(float(arm.max()) / best) for arm in arms))
    return Interval(value=best, low=best * math.exp(-down), high=best * math.exp(up))
