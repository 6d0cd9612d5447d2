"""Tables of what stands beside speed: where time was lost, time to an equal loss, noise of the gradient. Torch-free."""

from __future__ import annotations

from typing import Any

from worldsize.report.labels import unless_run
from worldsize.report.lost_parts import NAMES, parts
from worldsize.report.numbers import PERCENT, Unit, time_unit
from worldsize.report.rows import Column, Pick, Table, column, identity
from worldsize.study.records import CellResult, StudyResult


def lost_time(result: StudyResult) -> Table | None:
    """What a step takes beyond the ideal, part by part; None where no cell's loss is known."""
    cells = [cell for cell in result.cells if cell.lost_time]
    if not cells:
        return None
    unit = time_unit(cell.lost_time.ideal_s + abs(cell.lost_time.lost_s) for cell in cells if cell.lost_time)
    held = {cell.name: {p.name: p.seconds for p in parts(cell.lost_time)} for cell in cells if cell.lost_time}
    present = [name for name, _ in NAMES.values() if any(name in own for own in held.values())]
    present += sorted({name for own in held.values() for name in own} - set(present))
    because = unless_run("it was not explained")
    columns = [*identity(result, cells), column(cells, "ideal_s", "ideal", _of("lost_time", "ideal_s"), unit, because)]
    for name in present:
        columns.append(column(cells, name, name, lambda c, n=name: held[c.name].get(n, 0.0), unit, because))  # type: ignore[misc]
    columns.append(column(cells, "lost_s", "lost", _of("lost_time", "lost_s"), unit, because))
    return Table("Time lost against the ideal step: its parts sum to 'lost'; a negative part was won back.", columns)


def held_out(result: StudyResult) -> Table | None:
    """Quality on held-out data after training; None where no cell was evaluated."""
    cells = [cell for cell in result.cells if cell.held_out]
    if not cells:
        return None
    because = unless_run("it was not evaluated")
    columns = identity(result, cells)
    for key, title, unit in _HELD_OUT:
        if any(getattr(cell.held_out, key) for cell in cells):
            columns.append(column(cells, key, title, _of("held_out", key), unit, because))
    signatures = list(dict.fromkeys(s for cell in cells if cell.held_out for s in cell.held_out.signatures))
    scored = f" By sacrebleu: {'; '.join(signatures)}." if signatures else ""
    return Table(f"Quality on held-out data after the last step: medians over repeats.{scored}", columns)


_HELD_OUT = (
    ("loss", "held-out loss", Unit(1, "nats")),
    ("perplexity", "perplexity", Unit(1, "")),
    ("bits_per_byte", "bits per byte", Unit(1, "bits/byte")),
    ("accuracy", "accuracy", PERCENT),
    ("macro_f1", "macro F1", PERCENT),
    ("bleu", "BLEU", Unit(1, "")),
    ("chrf", "chrF", Unit(1, "")),
)


def training(result: StudyResult) -> Table | None:
    """Time to the study's target loss and the noise of the gradient; None where neither is known of any cell."""
    cells = [cell for cell in result.cells if cell.step_time_s]
    columns = [*_equal_tokens(cells), *_time_to_loss(cells), *_noise(cells)]
    if not columns:
        return None
    caption = (
        "Quality beside speed: smoothed loss at equal tokens; time until it first reaches the target; gradient noise "
        "scale, and the progress that a sample makes at this batch over one in a tiny batch."
    )
    return Table(caption, [*identity(result, cells), *columns])


def _equal_tokens(cells: list[CellResult]) -> list[Column]:
    pick = _of("equal_tokens", "loss")
    if not any(pick(cell) for cell in cells):
        return []
    because = unless_run("the work is not the same")
    return [
        column(cells, "equal_tokens", "at tokens", _of("equal_tokens", "tokens"), Unit(1, ""), because),
        column(cells, "equal_tokens_loss", "loss there", pick, Unit(1, "nats/token"), because),
    ]


def _time_to_loss(cells: list[CellResult]) -> list[Column]:
    if not any(cell.time_to_loss for cell in cells):
        return []
    unit = time_unit(cell.time_to_loss.seconds.median for cell in cells if cell.time_to_loss)
    because = unless_run("the smoothed loss never reaches the target")
    return [
        column(cells, "target", "target loss", _of("time_to_loss", "target"), Unit(1, "nats/token"), because),
        column(cells, "steps", "steps", _of("time_to_loss", "steps"), Unit(1, ""), because),
        column(cells, "seconds", "time to target", _of("time_to_loss", "seconds"), unit, because),
    ]


def _noise(cells: list[CellResult]) -> list[Column]:
    if not any(cell.noise_scale for cell in cells):
        return []
    pick = _of("noise_scale", "sample_efficiency")
    return [
        column(cells, "noise_scale", "noise scale", _of("noise_scale", "noise_scale"), Unit(1, "samples"), _no_noise),
        column(cells, "sample_efficiency", "progress per sample", pick, PERCENT, _no_noise),
    ]


def _of(field: str, inner: str) -> Pick:
    """Return what reads `inner` of a cell's `field`, or None where the cell has none."""

    def pick(cell: CellResult) -> Any:
        return getattr(getattr(cell, field, None), inner, None)

    return pick


def _no_noise(cell: CellResult) -> str:
    if cell.noise_scale and cell.noise_scale.absent_because:
        return cell.noise_scale.absent_because
    return "ranks hold no gradient of their own"
