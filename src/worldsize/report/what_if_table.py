"""What would happen at settings that were not run, as a table. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worldsize.report.law_tables import capital
from worldsize.report.numbers import Unit, time_unit
from worldsize.report.rows import Column, Number, Table, Value, number_column, words
from worldsize.scaling.what_if import WhatIf


def what_ifs(answers: Sequence[WhatIf]) -> Table:
    """Return one row a question; a doubt stands as a remark on its step time."""
    unit = time_unit(a.step_time_s.value or 0.0 for a in answers if a.step_time_s)
    exposed = time_unit(a.exposed_communication_s.value or 0.0 for a in answers if a.exposed_communication_s)

    def numbers(key: str, title: str, of_unit: Unit, pick: Callable[[WhatIf], Number | None]) -> Column:
        because = [(answer.absent_because or "the model does not say").rstrip(".") for answer in answers]
        return number_column(key, title, of_unit, [pick(answer) for answer in answers], because)

    times = numbers("step_time_s", "step time", unit, lambda a: a.step_time_s)
    marked = [_doubted(value, answer) for value, answer in zip(times.values, answers, strict=True)]
    columns = [
        *_question(answers),
        Column(times.key, times.title, times.unit, marked),
        numbers("samples_per_s", "samples per second", Unit(1, "1/s"), lambda a: a.samples_per_s),
        numbers("speedup", "speedup", Unit(1, "×"), lambda a: a.speedup),
        numbers("exposed_communication_s", "exposed", exposed, lambda a: a.exposed_communication_s),
    ]
    return Table(
        "What this study's own fitted model says of settings that were not run: where one further run will fall "
        "(95 %). Speedup: over the smallest number of devices at the same global batch.",
        columns,
    )


def _question(answers: Sequence[WhatIf]) -> list[Column]:
    """Return the columns that say what was asked; those in which every answer is as in the study are left out."""
    columns = [
        Column("devices", "devices", "", [Value(f"{a.devices:,}", a.devices) for a in answers], is_key=True),
        Column(
            "batch", "global batch", "", [Value(f"{a.global_batch:,}", a.global_batch) for a in answers], is_key=True
        ),
    ]
    if any(a.num_micro != 1 for a in answers):
        micro = [Value(f"{a.num_micro:,}", a.num_micro) for a in answers]
        columns.append(Column("num_micro", "micro batches", "", micro, is_key=True))
    if any(a.payload_factor != 1 for a in answers):
        columns.append(words("payload_factor", "gradients", [_times(a.payload_factor, "the bytes") for a in answers]))
    if any(a.link_factor != 1 for a in answers):
        columns.append(words("link_factor", "link", [_times(a.link_factor, "as fast") for a in answers]))
    return columns


def _times(factor: float, noun: str) -> str:
    return "as measured" if factor == 1 else f"{factor:g}× {noun}"


def _doubted(value: Value, answer: WhatIf) -> Value:
    if not answer.doubt:
        return value
    return Value(value.text, value.raw, value.interval, value.because, remark=f"Doubtful: {answer.doubt.rstrip('.')}.")


def assumptions(answers: Sequence[WhatIf]) -> list[str]:
    """Return what the answers assume, each sentence once."""
    return list(dict.fromkeys(capital(sentence) for answer in answers for sentence in answer.assumptions))
