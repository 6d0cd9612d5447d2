"""A report for a compute-time application: the request, strong and weak scaling, device-hours. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worldsize.report import labels, law_tables, plates, tables
from worldsize.report.cost import Cost, Plan
from worldsize.report.cost_tables import costs, requested
from worldsize.report.document import Block, Document, Lines, Numbers, Plate, Plates, Section, Terms, Words
from worldsize.report.method import Definition, definitions
from worldsize.report.numbers import PERCENT, Unit, count, interval_in_words
from worldsize.report.runs import RunFolders
from worldsize.report.study_document import byline, environment, problems
from worldsize.study.records import StudyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TERMS = ("Step time", "Intervals", "Throughput", "Speedup", "Efficiency", "Same work", "Device", "Gloo on one host")


@dataclass(frozen=True)
class Measurement:
    """A study and its folder, when its runs are at hand."""

    result: StudyResult
    folder: Path | None


def proposal_document(main: Measurement, other: StudyResult | None, planned: Plan) -> Document:
    """Return the report. `main` is what the request is reckoned from; `other` is the same under the other scaling."""
    runs = RunFolders(main.result, main.folder)
    numbers = Numbers()
    by_mode = {main.result.scaling: main.result} | ({other.scaling: other} if other else {})
    return Document(
        title=main.result.title,
        headline=headline(planned),
        byline=byline(main.result, runs),
        sections=[
            _request(main.result, planned, numbers),
            *(_scaling(mode, by_mode.get(mode), main.result, runs, numbers) for mode in ("strong", "weak")),
            _cost(planned, numbers),
            _basis(main.result, planned),
            problems(main.result),
            _method(main.result),
            environment(main.result, runs, numbers),
        ],
    )


def headline(planned: Plan) -> str:
    """Return the request and its price in a sentence, with what the price rests on."""
    request = planned.request
    best = next(iter(planned.at_request()), None)
    if request.devices is None:
        return "What a training costs on more devices"
    if best is None:
        return f"{count(request.devices, 'device')} requested: this study cannot say what they would cost"
    if best.device_h is None or best.num_steps is None:
        return f"{count(request.devices, 'device')} requested{_at(best)}"
    hours = interval_in_words(best.device_h, Unit(1, "device-hours"))
    return f"{hours} on {count(request.devices, 'device')}{_at(best)}"


def _at(cost: Cost) -> str:
    efficient = f" at {interval_in_words(cost.efficiency, PERCENT)} efficiency" if cost.efficiency else ""
    doubt = ", not believable" if cost.doubt else ""
    return f"{efficient}, {cost.basis}{doubt}"


def _request(result: StudyResult, planned: Plan, numbers: Numbers) -> Section:
    request = planned.request
    train = f"{request.tokens:,} tokens" if request.tokens else count(request.steps, "step") if request.steps else ""
    asked = [count(request.devices, "device")] if request.devices else []
    asked += [f"training for {train}"] if train else []
    said = (
        f"Requested: {', '.join(asked)}."
        if asked
        else "No size was requested: give --devices, and --steps or --tokens."
    )
    blocks: list[Block] = [Words(said)]
    found = planned.at_request()
    if found:
        blocks.append(numbers.sheet(requested(found)))
        blocks.append(Lines(sentences(found)))
    if planned.not_known:
        blocks.append(Lines([labels.plain(sentence) for sentence in planned.not_known]))
    return Section("request", "Resources requested", blocks)


def sentences(found: list[Cost]) -> list[str]:
    """Return what the numbers of the curves rest on; curves that rest on the same are named together."""
    curves: dict[str, list[str]] = {}
    for cost in found:
        curves.setdefault(_rests_on(cost), []).append(cost.curve)
    return [f"{law_tables.capital('; '.join(names))}: {text}" for text, names in curves.items()]


def _rests_on(cost: Cost) -> str:
    if cost.basis == "measured":
        text = f"measured on {count(cost.devices, 'device')} in this study; nothing is extrapolated"
        return f"{text}, but {cost.doubt}." if cost.doubt else f"{text}."
    how = (
        cost.note or "by the scaling laws that the measurements allow; the interval is where one further run will fall"
    )
    believed = f"Not believable: {cost.doubt}." if cost.doubt else "No law that is possible contradicts it."
    return f"predicted, {how}. {believed}"


def _scaling(mode: str, result: StudyResult | None, main: StudyResult, runs: RunFolders, numbers: Numbers) -> Section:
    title = f"{mode.capitalize()} scaling"
    if result is None:
        how = f"Not measured. To add it, run worldsize study with --scaling {mode} and give both studies' folders."
        return Section(mode, title, [Words(how, muted=True)])
    own = runs if result is main else RunFolders(result, None)
    keys = ["speedup", "efficiency"] if mode == "strong" else ["efficiency", "step_time"]
    drawn = [_renamed(plate, mode) for plate in plates.plates(result, own, numbers, keys)]
    what = (
        "The global batch stays the same as devices are added: the same work in less time."
        if mode == "strong"
        else "The batch per device stays the same: the work grows with the devices."
    )
    return Section(mode, title, [Words(what), numbers.sheet(tables.scaling(result)), Plates(drawn)])


def _renamed(plate: Plate, mode: str) -> Plate:
    """Return the plate under a key of its own, since both modes may show the same kind of figure."""
    return Plate(f"{mode}_{plate.key}", plate.number, plate.title, plate.caption, plate.alt, plate.draw)


def _cost(planned: Plan, numbers: Numbers) -> Section:
    if not planned.costs:
        return Section("cost", "Cost", [Words("Not known: because no cell was measured.", muted=True)])
    blocks: list[Block] = [numbers.sheet(costs(planned.costs))]
    marks = (
        "Filled marks were measured, open ones predicted, with 95 % intervals; grey marks: not believable. "
        "Grey line: the devices requested."
    )
    drawn = [_drawn(planned, numbers, "planned_efficiency", "Efficiency to the requested size", f"Efficiency. {marks}")]
    if any(cost.device_h for cost in planned.costs):
        caption = f"Device-hours of the planned training. {marks}"
        drawn.append(_drawn(planned, numbers, "planned_cost", "Cost against devices", caption))
    return Section("cost", "Cost at every size", [*blocks, Plates(drawn)])


def _drawn(planned: Plan, numbers: Numbers, key: str, title: str, caption: str) -> Plate:
    def draw() -> Figure:
        from worldsize.report import figures

        function: Callable[[Plan], Figure] = getattr(figures, key)
        return function(planned)

    return numbers.plate(key, title, caption, f"{title}. The numbers stand in the table of costs.", draw)


def _basis(result: StudyResult, planned: Plan) -> Section:
    """Return what is measured, what is predicted, and up to where the predictions are believable."""
    measured = sorted({cost.devices for cost in planned.costs if cost.basis == "measured"})
    predicted = sorted({cost.devices for cost in planned.costs if cost.basis == "predicted"})
    lines = [f"Measured: {', '.join(map(str, measured))} devices." if measured else "Nothing was measured."]
    if predicted:
        lines.append(f"Predicted: {', '.join(map(str, predicted))} devices.")
    if result.fits:
        lines += [result.fits.evidence, *law_tables.limits(result.fits)]
    else:
        lines.append("No scaling law was fitted: nothing beyond the measured sizes is claimed.")
    return Section("basis", "What these numbers rest on", [Lines(lines)])


def _method(result: StudyResult) -> Section:
    found = [definition for definition in definitions(result) if definition.term in TERMS]
    hours = Definition(
        "Device-hours",
        "steps × T(N) × N / 3600 s",
        "Steps follow from the tokens and the batch where tokens were asked for. Start-up, evaluation, checkpoints and "
        "failed runs are not included.",
    )
    return Section("method", "Method", [Terms([*found, hours])])
