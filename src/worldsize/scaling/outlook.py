"""Which law a study's cells follow, and what it says of the next doubling, in words (docs/explain/fits.md)."""

from __future__ import annotations

from collections.abc import Sequence

from worldsize.scaling.fit import fit_laws
from worldsize.scaling.fit_records import LawFits, Outlook, Prediction
from worldsize.scaling.observations import Observation
from worldsize.scaling.pair import Pair, is_sound
from worldsize.scaling.questions import Runs, payload_bytes, told
from worldsize.scaling.wording import devices
from worldsize.study.grid import Scaling
from worldsize.study.records import CellResult


def fits_of(cells: Sequence[CellResult], runs: Runs, scaling: Scaling) -> LawFits | None:
    """Fit the laws to the cells that passed the same-work gate; None where no two numbers of devices are left."""
    found = [_observation(cell, runs) for cell in cells if is_sound(cell) and runs[cell.name]]
    devices_of: dict[tuple[str, float], set[int]] = {}
    for one in found:
        devices_of.setdefault(one.curve(scaling), set()).add(one.devices)
    on_curves = [one for one in found if len(devices_of[one.curve(scaling)]) > 1]
    return fit_laws(on_curves, scaling) if on_curves else None


def series_of(cell: CellResult) -> str:
    """Return what a cell's grid point shares with the others on its curve: its varied settings."""
    return ", ".join(f"{key}={value}" for key, value in cell.vary.items())


def _observation(cell: CellResult, runs: Runs) -> Observation:
    assert cell.step_time_s is not None
    payload = payload_bytes(runs[cell.name][0]) if cell.world_size > 1 else None
    return Observation(cell.world_size, cell.global_batch, cell.step_time_s.samples, payload, series_of(cell))


def outlook(pair: Pair, fits: LawFits | None) -> list[str]:
    """Return what the laws say of the next doubling of the cell's devices, or why nothing can be said."""
    if fits is None:
        return []
    if fits.best is None:
        reasons = [one.reason for one in fits.not_fitted[:1]]
        return [
            f"More devices than measured: nothing can be said. {reason[:1].upper()}{reason[1:]}" for reason in reasons
        ]
    curve = _curve(pair, fits.outlook)
    if curve is None or not curve.doublings:
        return []
    title = next(fit.title for fit in fits.fits if fit.law == fits.best)
    return [_doubling(pair, curve, curve.doublings[0], title)]


def _curve(pair: Pair, outlooks: Sequence[Outlook]) -> Outlook | None:
    cell = pair.cell
    batch = cell.global_batch if pair.scaling == "strong" else cell.global_batch / cell.world_size
    return next((one for one in outlooks if (one.series, one.batch) == (series_of(cell), float(batch))), None)


def _doubling(pair: Pair, curve: Outlook, next_one: Prediction, title: str) -> str:
    who = devices(next_one.devices)
    if next_one.doubt:
        return f"{who}: nothing believable can be said, since {_lower(next_one.doubt)}."
    then = Pair(pair.cell.model_copy(update={"world_size": next_one.devices}), pair.baseline, pair.scaling)
    further = f", believable up to {curve.believable_to}" if curve.believable_to > next_one.devices else ""
    return (
        f"{who} should give {told(then, next_one.speedup)} by {title}{further} (one further run's 95 % interval, "
        f"over all laws that these cells allow)."
    )


def _lower(sentence: str) -> str:
    return sentence if sentence.startswith(("Amdahl", "Gustafson")) else sentence[:1].lower() + sentence[1:]
