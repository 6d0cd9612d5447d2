"""The rule about strategies that train otherwise than one device would. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldsize.records import Problem
from worldsize.study.comparability import changes_maths

if TYPE_CHECKING:
    from worldsize.scaling.rules import Context


def other_maths(context: Context) -> list[Problem]:
    """A strategy that trains otherwise than one device would: its steps are as many, but not the same training."""
    runs = [*context.cell.runs, *context.baseline.runs]
    names = sorted({run.result.strategy for run in runs if changes_maths(run)})
    if context.cell.is_baseline or not names:
        return []
    message = (
        f"{' and '.join(names)} trains otherwise than one device would, so that the ratio of step times is no speedup "
        f"of the same training: compare the time to a loss, and the loss at equal tokens"
    )
    return [Problem(rule="other-maths", severity="warns", message=message)]
