"""At which link or batch more devices would be as fast as fewer (docs/explain/break-even.md). Torch-free.

T(cell) = rest + exposed,   break-even: T(cell) = T(baseline) for the same work
affordable = T(baseline) - rest                              the exposed communication at which both are as fast
wire = payload x 8 x 2 (h - 1) / h / rate                    h hosts; rate: the link as measured before training
exposed(rate') = exposed - wire + wire x rate / rate'        what is hidden, and what is waiting, stay as they are
exposed stays, GROWS_WITH_BATCH grows in proportion          for another batch
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from worldsize.config.rates import rate_text
from worldsize.scaling.pair import EXPOSED, GROWS_WITH_BATCH, Pair
from worldsize.scaling.questions import payload_bytes
from worldsize.scaling.wording import devices, percent, time_text
from worldsize.study.files import Run
from worldsize.study.records import BreakEven


@dataclass(frozen=True)
class Wire:
    """What one step's exchange asks of each host's link."""

    payload_bytes: float
    rate_bit_per_s: float
    num_hosts: int

    @property
    def seconds(self) -> float:
        """How long the link is busy in a step when it gives the measured rate."""
        return self.payload_bytes * 8 * 2 * (self.num_hosts - 1) / self.num_hosts / self.rate_bit_per_s


def wire_of(runs: Sequence[Run]) -> Wire | None:
    """Return what the exchange asks of the link; None where no link was measured, or no all-reduce carries it."""
    emulated = runs[0].record.environment.emulated
    payload = payload_bytes(runs[0])
    if emulated is None or payload is None:
        return None
    rates = sorted(run.record.environment.emulated.all_reduce_bit_per_s or 0.0
                   for run in runs if run.record.environment.emulated)  # fmt: skip
    rate = rates[len(rates) // 2]
    return Wire(payload, rate, emulated.num_hosts) if rate else None


def break_even(pair: Pair, wire: Wire | None) -> BreakEven:
    """Return where the cell would do its work as fast as the baseline does the same."""
    same_work_s = pair.ideal_s * pair.num_times_devices
    exposed_s = pair.cell.phases_s.get(EXPOSED, 0.0)
    rest_s = pair.step_s - exposed_s
    affordable_s = same_work_s - rest_s
    return BreakEven(
        exposed_s=exposed_s,
        affordable_s=affordable_s,
        wire_s=wire.seconds if wire else None,
        link_bit_per_s=wire.rate_bit_per_s if wire else None,
        break_even_link_bit_per_s=_link(affordable_s, exposed_s, wire) if wire else None,
        break_even_global_batch=_batch(pair, exposed_s),
    )


def exposed_at(exposed_s: float, wire_s: float, factor: float) -> float:
    """Return exposed communication (s) when the link is busy `factor` times as long as now."""
    return max(0.0, exposed_s - wire_s + wire_s * factor)


def _link(affordable_s: float, exposed_s: float, wire: Wire) -> float | None:
    """Return the rate at which only the affordable is exposed; None where no link brings it down to that."""
    wire_s = affordable_s - exposed_s + wire.seconds
    return wire.rate_bit_per_s * wire.seconds / wire_s if affordable_s > 0 and wire_s > 0 else None


def _batch(pair: Pair, exposed_s: float) -> int | None:
    """Return the smallest global batch, a multiple of the devices, at which the cell is as fast; None where none is."""
    ours_s, theirs_s = (sum(each.phases_s.get(name, 0.0) for name in GROWS_WITH_BATCH)
                        for each in (pair.cell, pair.baseline))  # fmt: skip
    work = pair.num_times_devices / pair.divisor
    saved_s = theirs_s * work - ours_s
    fixed_s = (pair.step_s - ours_s) - (sum(pair.baseline.phases_s.values()) - theirs_s) * work
    if saved_s <= 0:
        return None
    batch = pair.cell.global_batch * fixed_s / saved_s
    return max(1, math.ceil(batch / pair.cell.world_size)) * pair.cell.world_size


def is_slower(pair: Pair) -> bool:
    """Tell whether more devices do the same work more slowly, beyond the noise."""
    efficiency = pair.cell.efficiency
    return efficiency is not None and efficiency.high * pair.num_times_devices < 1


def sentences(pair: Pair, found: BreakEven) -> list[str]:
    """Return why the cell is slower than its baseline, with the figures, and where it would break even."""
    cell, base = pair.cell, pair.baseline
    where = "".join(f" at {key}={value}" for key, value in cell.vary.items())
    shares = f"{time_text(found.exposed_s)} of a step's {time_text(pair.step_s)} are exposed communication"
    compute_s = cell.phases_s.get("compute_s", 0.0)
    ratio = f"compute : exposed communication is {compute_s / max(found.exposed_s, 1e-12):.2g}"
    said = [
        f"{devices(cell.world_size)}{where} are slower than {base.world_size} because {shares} "
        f"({percent(found.exposed_s / pair.step_s)}; {ratio}). {_affordable(found)}"
    ]
    if found.wire_s and found.link_bit_per_s:
        said.append(
            f"One step's exchange keeps the link busy for {time_text(found.wire_s)} at the "
            f"{rate_text(found.link_bit_per_s)} that it was measured to give."
        )
    return [*said, _where(found)]


def _affordable(found: BreakEven) -> str:
    if found.affordable_s <= 0:
        return "Without any communication they would still be slower."
    return f"As fast as the baseline they would be with {time_text(found.affordable_s)} of it."


def _where(found: BreakEven) -> str:
    ways = []
    if found.break_even_link_bit_per_s:
        ways.append(f"a link that gives {rate_text(found.break_even_link_bit_per_s)}")
    if found.break_even_global_batch:
        ways.append(f"a global batch of {found.break_even_global_batch:,}")
    if not ways:
        return "No link and no batch would make them break even."
    return (
        f"They would break even at {' or at '.join(ways)}, if what is hidden under compute stays hidden and the "
        "exchange takes as long a step at any batch."
    )
