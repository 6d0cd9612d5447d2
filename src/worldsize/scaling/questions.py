"""What would be at other settings, asked of the model fitted to this very study (docs/explain/what-if.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worldsize.errors import UserError
from worldsize.records import PHASES, Measured
from worldsize.scaling.interval import Interval
from worldsize.scaling.pair import Pair, is_sound
from worldsize.scaling.what_if import CellPhases, StudyModel, WhatIf, fit_study, usual_questions
from worldsize.study.files import Run
from worldsize.study.grid import Scaling
from worldsize.study.records import CellResult

Runs = Mapping[str, Sequence[Run]]
CONTENTION = "contention between devices"


@dataclass(frozen=True)
class Answers:
    """The questions about one cell, answered; `tells_batches` says whether the model may speak of other batches.

    One batch cannot tell a fixed cost from what devices lose to each other: the first shrinks in a larger batch, the
    second does not.
    """

    now: WhatIf
    """The cell as it is, by the model: what its answers are to be set against."""
    what_ifs: list[WhatIf]
    tells_batches: bool


def ask(pair: Pair, cells: Sequence[CellResult], runs: Runs) -> Answers | None:
    """Ask the usual questions about a cell of the model of its study; None where the study is too small for one."""
    model = _model(pair.cell, cells, runs, pair.scaling)
    if model is None:
        return None
    tells_batches = CONTENTION in model.local.parts
    asked = usual_questions(model, pair.cell.world_size, pair.cell.global_batch, num_micro(runs[pair.cell.name][0]))
    measured = {(c.world_size, c.global_batch, num_micro(runs[c.name][0])) for c in cells if runs.get(c.name)}
    kept = [
        what_if
        for what_if in asked
        if what_if.global_batch == pair.cell.global_batch or tells_batches
        if not (is_unchanged(what_if) and (what_if.devices, what_if.global_batch, what_if.num_micro) in measured)
    ]
    return Answers(asked[0], kept, tells_batches)


def is_unchanged(what_if: WhatIf) -> bool:
    """Tell whether only batch, devices or accumulation are asked about, not another payload or link."""
    return what_if.payload_factor == what_if.link_factor == 1.0


def num_micro(run: Run) -> int:
    """Return the micro batches of a step on one device."""
    replicas = run.record.layout.get("dp", 1) * run.record.layout.get("fsdp", 1)
    micro_batch = run.config.train.micro_batch or run.config.train.global_batch
    return max(1, run.config.train.global_batch // (replicas * micro_batch))


def payload_bytes(run: Run) -> float | None:
    """Return the bytes one rank hands to the all-reduces of a step; None where other collectives carry gradients."""
    counts = run.result.communication_bytes.predicted
    if not counts or any(count.kind != "all_reduce" or count.payload_bytes < 0 for count in counts):
        return None
    return float(sum(count.payload_bytes for count in counts))


def _model(subject: CellResult, cells: Sequence[CellResult], runs: Runs, scaling: Scaling) -> StudyModel | None:
    """Fit the model to the sound cells of the subject's settings; None where they are too few or not data-parallel."""
    ours = [cell for cell in cells if cell.vary == subject.vary or cell.name == subject.baseline]
    alike = [cell for cell in ours if is_sound(cell) and runs[cell.name]]
    if not all(_is_data_parallel(run) for cell in alike for run in runs[cell.name]):
        return None
    try:
        phases = [_cell_phases(cell, runs[cell.name]) for cell in alike]
        return fit_study(phases, scaling=scaling)
    except UserError:  # too few cells, or phases that no clock could have written: the rules speak of those
        return None


def _is_data_parallel(run: Run) -> bool:
    layout = run.record.layout
    is_local = run.record.strategy == "local_sgd"  # no gradients are exchanged
    return (
        not is_local
        and layout.get("tp", 1) == layout.get("pp", 1) == 1
        and (run.record.world_size == 1 or payload_bytes(run) is not None)
    )


def _cell_phases(cell: CellResult, runs: Sequence[Run]) -> CellPhases:
    phases = [{name: max(0.0, run.result.phases_s.get(name, 0.0)) for name in PHASES} for run in runs]
    payload = payload_bytes(runs[0]) if cell.world_size > 1 else 0.0
    return CellPhases(cell.world_size, cell.global_batch, phases, payload or 0.0, num_micro(runs[0]))


def told(pair: Pair, speedup: Interval | Measured) -> str:
    """Write a speedup (weak scaling: a scaled one, as efficiency) with its interval: '1.6x (1.5-1.7)'."""
    value = speedup.median if isinstance(speedup, Measured) else speedup.value
    numbers = [float("nan") if number is None else number for number in (value, speedup.low, speedup.high)]
    if pair.scaling == "weak":
        now, low, high = (number / pair.num_times_devices * 100 for number in numbers)
        return f"{now:.0f} % efficiency ({low:.0f}-{high:.0f} %)"
    now, low, high = numbers
    return f"{now:.2f}x ({low:.2f}-{high:.2f})"


def setting(what_if: WhatIf, pair: Pair, micro_now: int) -> str:
    """Name what is changed, as the subject of a sentence."""
    if what_if.payload_factor != 1:
        return "gradients exchanged in bf16"
    if what_if.link_factor != 1:
        return f"a link {what_if.link_factor:g} times as fast"
    batch = f"a global batch of {what_if.global_batch}"
    if what_if.num_micro != micro_now:
        return f"{batch} in {what_if.num_micro} micro batches"
    return batch
