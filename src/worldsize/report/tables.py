"""The evidence as tables of values, a row a cell: what every format prints. Torch-free."""

from __future__ import annotations

from worldsize.records import PHASES
from worldsize.report import labels
from worldsize.report.numbers import PERCENT, Unit, bytes_unit, time_unit
from worldsize.report.quality_tables import lost_time, training
from worldsize.report.rows import Column, Table, Value, column, comparison, identity, words
from worldsize.study.records import CellResult, StudyResult


def scaling(result: StudyResult) -> Table:
    """Time, rate, speedup, efficiency and loss of every cell."""
    cells = result.cells
    unit_s = time_unit(cell.step_time_s.median for cell in cells if cell.step_time_s)
    columns = identity(result)
    if not any("parallel.strategy" in cell.vary for cell in cells):
        columns.append(words("strategy", "strategy", [cell.strategy or "not run" for cell in cells]))
    columns += [
        column(cells, "step_time_s", "step time", lambda c: c.step_time_s, unit_s, labels.not_measured),
        column(cells, "tokens_per_s", "throughput", lambda c: c.tokens_per_s, Unit(1, "tokens/s"), labels.not_measured),
    ]
    if labels.compares(result):
        columns += [
            comparison(cells, "speedup", lambda c: c.speedup, Unit(1, "×"), lambda c: labels.no_speedup(result, c)),
            comparison(cells, "efficiency", lambda c: c.efficiency, PERCENT, labels.not_compared),
        ]
    columns += [
        column(
            cells,
            "final_loss",
            "final loss",
            lambda c: c.final_loss,
            Unit(1, "nats/token"),
            labels.unless_run("no loss"),
        ),
        Column("repeats", "repeats", "", [_repeats(cell) for cell in cells]),
    ]
    return Table("Time, speedup and loss of every cell: medians, with 95 % bootstrap intervals beneath.", columns)


def phases(result: StudyResult) -> Table:
    """Seconds of every phase, their sum, and compute to exposed communication."""
    cells = result.cells
    unit = time_unit(sum(cell.phases_s.values()) for cell in cells)
    because = labels.unless_run("phases were not recorded")
    columns = identity(result)
    for phase in PHASES:
        if any(cell.phases_s.get(phase) for cell in cells):
            title = phase.removesuffix("_s").replace("_", " ")
            columns.append(column(cells, phase, title, lambda c, p=phase: c.phases_s.get(p), unit, because))  # type: ignore[misc]
    columns += [
        column(cells, "phases_sum_s", "sum", lambda c: sum(c.phases_s.values()) or None, unit, because),
        column(
            cells, "exposed_communication_share", "exposed", lambda c: c.exposed_communication_share, PERCENT, because
        ),
        column(
            cells,
            "compute_to_communication",
            "compute / exposed",
            lambda c: c.compute_to_communication,
            Unit(1, "×"),
            labels.unless_run("nothing is exposed to compare with"),
        ),
    ]
    return Table("Where a step's time goes: mean over ranks; the phases sum to the step.", columns)


def communication(result: StudyResult) -> Table | None:
    """Exposed communication by every measure; None when no cell has more than one device."""
    cells = [cell for cell in result.cells if cell.world_size > 1]
    if not cells:
        return None
    measures = {
        "clock_s": "clock",
        "ablation_s": "ablation",
        "trace_s": "trace",
        "contention_s": "contention",
        "copies_s": "copies",
    }
    known = [exposed for cell in cells if (exposed := cell.exposed_communication)]
    unit = time_unit(exposed.clock_s.median for exposed in known)
    for part in ("contention_s", "copies_s"):  # parts that explain a disagreement: shown where they were measured
        if not any(getattr(exposed, part) for exposed in known):
            del measures[part]
    columns = identity(result, cells)
    for key, title in measures.items():
        because = labels.unless_run(f"{title} was not measured in this study")
        columns.append(
            column(cells, key, title, lambda c, k=key: getattr(c.exposed_communication, k, None), unit, because)  # type: ignore[misc]
        )
    notes = [(cell.exposed_communication and cell.exposed_communication.disagreement) or "" for cell in cells]
    if any(notes):
        columns.append(words("disagreement", "remark", notes))
    return Table("Exposed communication of one step, measured in independent ways; mean over ranks.", columns)


def bubble(result: StudyResult) -> Table | None:
    """The idle time of pipelines by formula, by replay and as observed; None when no cell is one."""
    cells = [cell for cell in result.cells if cell.bubble]
    if not cells:
        return None
    known = [cell.bubble for cell in cells if cell.bubble]
    unit = time_unit(each.observed_s.median for each in known)
    because = labels.unless_run("not recorded")
    columns = [*identity(result, cells), words("schedule", "schedule", [each.schedule for each in known])]
    for key, title, of in (
        ("ideal_share", "ideal", PERCENT),
        ("simulated_share", "simulated", PERCENT),
        ("observed_share", "observed", PERCENT),
        ("simulated_s", "simulated time", unit),
        ("observed_s", "observed time", unit),
    ):
        columns.append(column(cells, key, title, lambda c, k=key: getattr(c.bubble, k, None), of, because))  # type: ignore[misc]
    return Table("Bubble: what a pipeline's ranks idle, of idle and computing time together; mean over ranks.", columns)


def devices(result: StudyResult) -> Table:
    """Memory, use of the device's arithmetic, and what measuring cost."""
    cells = result.cells
    memory = bytes_unit(cell.peak_memory_bytes for cell in cells if cell.peak_memory_bytes)
    not_recorded = labels.unless_run("not recorded")
    peak = labels.unless_run("the device's peak is not known")
    columns = [
        *identity(result),
        *(
            column(cells, key, title, lambda c, k=key: getattr(c, k), memory, not_recorded)  # type: ignore[misc]
            for key, title in (
                ("peak_memory_bytes", "peak of the process"),
                ("allocated_bytes", "allocated in a step"),
                ("held_bytes", "weights and moments"),
            )
        ),
        column(cells, "mfu", "MFU", lambda c: c.mfu, PERCENT, peak),
        column(
            cells,
            "mfu_vs_measured_matmul",
            "of measured matmul",
            lambda c: c.mfu_vs_measured_matmul,
            PERCENT,
            labels.unless_run("no matmul rate was measured"),
        ),
        column(
            cells,
            "measuring_cost_share",
            "cost of measuring",
            lambda c: c.measuring_cost_share,
            PERCENT,
            labels.unless_run("it was not probed"),
        ),
    ]
    return Table("Use of the devices: the rank that needs most memory; FLOP of the model, causal attention.", columns)


def tables(result: StudyResult) -> list[Table]:
    """Return the tables of the evidence, in the order in which they are read."""
    if not result.cells:
        return []
    return [
        table
        for table in (
            scaling(result),
            phases(result),
            lost_time(result),
            communication(result),
            bubble(result),
            training(result),
            devices(result),
        )
        if table
    ]


def _repeats(cell: CellResult) -> Value:
    failed = f" ({len(cell.failures)} failed)" if cell.failures else ""
    return Value(f"{len(cell.runs)}{failed}", len(cell.runs))
