"""A study as text: the table and the verdict, drawn from a StudyResult and nothing else.

Fits 100 columns, and 80 where no setting varies.
"""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from worldsize.records import Measured
from worldsize.report import labels
from worldsize.scaling.wording import percent, time_text
from worldsize.study.records import CellResult, StudyResult, Verdict

WIDTH = 100
"""Columns that the table needs at most."""
NONE = "–"
COMPARED = ["speedup\n(95 %)", "eff."]


def table(result: StudyResult) -> Table:
    """Return the study's table: a row a cell. Absent figures are dashes.

    The last column marks cells with problems; below the table stand those that the verdict does not tell.
    """
    vary = sorted({key for cell in result.cells for key in cell.vary})
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, caption=_caption(result), caption_justify="left")
    for heading in _headings(result, bool(vary)):
        left = heading in ("setting", "")
        drawn.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for cell in result.cells:
        drawn.add_row(*_row(cell, vary, result), style="dim" if cell.step_time_s is None else None)
    return drawn


def verdict_text(verdict: Verdict) -> Group:
    """Return the verdict as it is printed: headline, why, what to try next, evidence."""
    parts: list[RenderableType] = [Text(verdict.headline, style="bold")]
    for title, lines in (("Why", verdict.why), ("Next", verdict.next), ("Evidence", verdict.evidence)):
        if lines:
            parts.append(Text(f"\n{title}", style="bold"))
            parts += [Padding(Text(f"- {line}"), (0, 0, 0, 2)) for line in lines]
    return Group(*parts)


def _headings(result: StudyResult, has_vary: bool) -> list[str]:
    setting = ["setting"] if has_vary else []
    utilisation = "MFU" if any(cell.mfu is not None for cell in result.cells) else "of\nmatmul"
    return [
        "dev.", "batch", *setting, "step time\n(95 %)", "tokens\n/s", *(COMPARED if labels.compares(result) else []),
        "exp.\ncomm.", utilisation, "memory\n/rank,\nheld", _loss_heading(result), "",
    ]  # fmt: skip


def _row(cell: CellResult, vary: list[str], result: StudyResult) -> list[str]:
    settings = " ".join(f"{key.split('.')[-1]}={cell.vary[key]}" for key in vary if key in cell.vary)
    has_mfu = any(each.mfu is not None for each in result.cells)
    utilisation = cell.mfu if has_mfu else cell.mfu_vs_measured_matmul
    return [
        str(cell.world_size),
        str(cell.global_batch),
        *([settings] if vary else []),
        _time(cell.step_time_s),
        _count(cell.tokens_per_s.median) if cell.tokens_per_s else NONE,
        *([_speedup(cell), _efficiency(cell)] if labels.compares(result) else []),
        percent(cell.exposed_communication_share) if cell.exposed_communication_share is not None else NONE,
        percent(utilisation) if utilisation is not None else NONE,
        _memory(cell),
        _loss(cell, result),
        _marks(cell),
    ]


def _time(measured: Measured | None) -> str:
    if measured is None:
        return NONE
    scale, digits = (1.0, 2) if measured.median >= 1 else (1e3, 1)
    return f"{time_text(measured.median)}\n{measured.low * scale:.{digits}f}-{measured.high * scale:.{digits}f}"


def _memory(cell: CellResult) -> str:
    """Return what a rank allocates at most in a step, and below it what of that are weights and moments."""
    return "\n".join(_bytes(each) for each in (cell.allocated_bytes, cell.held_bytes) if each is not None) or NONE


def _speedup(cell: CellResult) -> str:
    if cell.is_baseline:
        return "baseline"
    if cell.speedup is None:
        return NONE
    mark = " (!)" if cell.overridden else " (‡)" if cell.other_maths else ""
    return f"{cell.speedup.median:.2f}x{mark}\n{cell.speedup.low:.2f}-{cell.speedup.high:.2f}"


def _efficiency(cell: CellResult) -> str:
    return percent(cell.efficiency.median) if cell.efficiency else NONE


def _loss_heading(result: StudyResult) -> str:
    target = _target(result)
    return f"loss{'*' if _batches_differ(result) else ''}" + (f"\ns to\n{target:.2f}" if target is not None else "")


def _loss(cell: CellResult, result: StudyResult) -> str:
    """Return the final loss (where batches differ: that at equal tokens) and below it the time to the study's loss."""
    loss = cell.equal_tokens.loss if cell.equal_tokens and _batches_differ(result) else cell.final_loss
    shown = f"{loss:.3f}" if loss is not None else NONE
    if _target(result) is None:
        return shown
    return f"{shown}\n{f'{cell.time_to_loss.seconds.median:.3g}' if cell.time_to_loss else NONE}"


def _batches_differ(result: StudyResult) -> bool:
    return len({cell.global_batch for cell in result.cells if cell.equal_tokens}) > 1


def _target(result: StudyResult) -> float | None:
    """Return the loss that times are given to, where all cells share one."""
    targets = {cell.time_to_loss.target for cell in result.cells if cell.time_to_loss}
    return targets.pop() if len(targets) == 1 else None


def _count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 999.5 * size else f"{value / size:.0f} {unit}"
    return f"{value:.0f}"


def _bytes(value: int) -> str:
    gib = value / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{value / 2**20:.0f} MiB"


def _marks(cell: CellResult) -> str:
    blocks = any(problem.severity == "blocks" for problem in cell.problems)
    marks = {
        "refused": blocks and not cell.overridden,
        "override": cell.overridden,
        "other maths": cell.other_maths,
        "warned": any(problem.severity == "warns" for problem in cell.problems),
        "failed": bool(cell.failures),
    }
    return " ".join(mark for mark, applies in marks.items() if applies)


def _caption(result: StudyResult) -> Text | None:
    """Return one line for each problem and failure that the verdict does not tell."""
    told = "\n".join([*result.verdict.why, *result.verdict.evidence]).lower()
    tokens = next((cell.equal_tokens.tokens for cell in result.cells if cell.equal_tokens), 0)
    lines = [f"* after {tokens:,} tokens, as many as the shortest cell trained on"] if _batches_differ(result) else []
    lines += [f"{problem.rule}: {problem.message}" for problem in result.problems]
    for cell in result.cells:
        lines += [f"{cell.name}, {p.rule}: {p.message}" for p in cell.problems if p.message.lower() not in told]
        lines += [f"{failure.run}: {failure.reason}" for failure in cell.failures if failure.reason.lower() not in told]
    return Text("\n".join(lines), style="italic") if lines else None
