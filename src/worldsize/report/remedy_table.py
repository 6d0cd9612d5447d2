"""What remedies brought to cells that are slower than their baseline, as a table. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worldsize.report.numbers import Unit
from worldsize.report.rows import Column, Number, Table, Value, number_column, words
from worldsize.study.records import RemedyTrial


def remedies(trials: Sequence[RemedyTrial]) -> Table:
    """Return one row a trial, the cell as it is among them."""

    def numbers(key: str, title: str, unit: Unit, pick: Callable[[RemedyTrial], Number | None]) -> Column:
        because = [_because(trial) for trial in trials]
        return number_column(key, title, unit, [pick(trial) for trial in trials], because)

    cells = Column("cell", "cell", "", [Value(trial.cell) for trial in trials], numeric=False, is_key=True)
    what = Column("what", "remedy", "", [Value(trial.what) for trial in trials], numeric=False, is_key=True)
    return Table(
        "Remedies for cells that are slower than their baseline. Speed: the baseline's time for a token over the "
        "cell's, both of the same rounds. Loss: on held-out text after equally many tokens. Where the arithmetic is "
        "another, the loss decides whether it is a remedy.",
        [
            cells,
            what,
            numbers("speedup", "speed", Unit(1, "×"), lambda trial: trial.speedup),
            numbers("payload_bytes", "exchanged a step", Unit(1e-6, "MB"), _payload),
            numbers("exposed_communication_share", "exposed", Unit(100, "%"), lambda t: t.exposed_communication_share),
            words("arithmetic", "arithmetic", [_arithmetic(trial) for trial in trials]),
            _loss("loss", "held-out loss", "", [(trial, trial.loss, "{:.4f}", 1.0) for trial in trials]),
            _loss(
                "loss_change", "loss change", "%", [(trial, trial.loss_change, "{:+.2f}", 100.0) for trial in trials]
            ),
        ],
    )


def _arithmetic(trial: RemedyTrial) -> str:
    if not trial.runs:
        return "not known"
    return "another" if trial.changes_arithmetic else "the same"


def _loss(key: str, title: str, unit: str, entries: Sequence[tuple[RemedyTrial, float | None, str, float]]) -> Column:
    """Return losses with as many places as a difference of a hundredth of a percent needs."""
    values = [
        Value("not known", because=_because(trial)) if loss is None else Value(form.format(loss * factor), loss)
        for trial, loss, form, factor in entries
    ]
    return Column(key, title, unit, values)


def _payload(trial: RemedyTrial) -> float | None:
    return None if trial.payload_bytes is None else float(trial.payload_bytes)


def _because(trial: RemedyTrial) -> str:
    if trial.failures:
        return f"the run failed: {trial.failures[0].reason}"
    return "no held-out loss was measured" if trial.runs else "no run has finished"
