"""One self-contained page from a study's results: verdict, why, next, evidence, problems, method, environment."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from worldsize.config.schema import Config
from worldsize.records import Origin, RunRecord, RunResult
from worldsize.report import captions, figures, labels, rows, svg, theme
from worldsize.report.figures.phases import has_exposed
from worldsize.report.figures.ranks import RanksByCell
from worldsize.report.figures.training import has_losses
from worldsize.report.method import definitions
from worldsize.study.records import StudyResult

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Plate:
    """A figure on the page."""

    key: str
    number: int
    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Finding:
    """A problem and where it was found: '' is the study as a whole."""

    where: str
    rule: str
    severity: str
    message: str


@dataclass(frozen=True)
class Setting:
    """A config value that is not the default, and where it came from."""

    key: str
    value: str
    source: str


def render(result: StudyResult, folder: Path | None) -> str:
    """Return the page. `folder` is the study's, when its runs are at hand: they tell ranks and the config's origins.

    The page opens offline: it holds no script and asks for nothing. Takes about a second, most of it in matplotlib.
    """
    runs = Runs(folder)
    page = Templates(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page.filters["plain"] = labels.plain
    page.filters["prose"] = prose
    page.filters["letters"] = letters
    template = page.get_template("report.html.j2")
    record = runs.record(result)
    widest = runs.record(result, widest=True)
    if widest:  # one device knows no backend and no other ranks' cores
        result = result.model_copy(update={"environment": widest.environment})
    return template.render(
        result=result,
        light=Markup(theme.css_variables("light")),
        dark=Markup(theme.css_variables("dark")),
        tables=rows.tables(result),
        plates=plates(result, runs.ranks(result)),
        findings=findings(result),
        failures=[(cell, failure) for cell in result.cells for failure in cell.failures],
        cell_labels=labels.cell_labels(result),
        definitions=definitions(result),
        settings=settings(result.config, record.origins if record else {}),
        config=json.dumps(result.config, indent=2, ensure_ascii=False),
        record=record,
    )


class Runs:
    """Run folders under a study's folder; everything is empty when there is none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def record(self, result: StudyResult, *, widest: bool = False) -> RunRecord | None:
        """Return run.json of the baseline's first run, or of a run on the most devices."""
        in_order = sorted(result.cells, key=lambda cell: -cell.world_size if widest else not cell.is_baseline)
        names = [run for cell in in_order for run in cell.runs]
        path = self._file(names[0], "run.json") if names else None
        return RunRecord.model_validate_json(path.read_bytes()) if path else None

    def ranks(self, result: StudyResult) -> RanksByCell:
        """Return every rank's summary of every finished repeat, by cell."""
        found = {}
        for cell in result.cells:
            paths = [path for run in cell.runs if (path := self._file(run, "result.json"))]
            found[cell.name] = [RunResult.model_validate_json(path.read_bytes()).ranks for path in paths]
        return found

    def _file(self, run: str, name: str) -> Path | None:
        if self.folder is None:
            return None
        path = self.folder / run / name
        return path if path.is_file() else None


def prose(text: str) -> str:
    """Return `text` for a paragraph: a range such as 1.7–1.8, and a number and its unit, never part at a line's end."""
    text = re.sub(r"(?<=\d)–(?=\d)", "\u2060–\u2060", labels.plain(text))
    return re.sub(r"(?<=\d) (?=(?:%|ms|s|µs|[KMG]iB)\b|%)", "\u00a0", text)


def letters(index: int) -> str:
    """Return a, b … z, aa, ab …"""
    text = chr(ord("a") + index % 26)
    return text if index < 26 else letters(index // 26 - 1) + text


def plates(result: StudyResult, ranks: RanksByCell) -> list[Plate]:
    """Draw every figure that the study has numbers for, in reading order."""
    has_speedup = result.scaling == "strong" or any(cell.speedup for cell in result.cells)
    alone = all(cell.world_size == 1 for cell in result.cells)
    wanted: list[tuple[str, str, bool, Callable[[], Figure]]] = [
        ("speedup", "Speedup", has_speedup and not alone, lambda: figures.speedup(result)),
        ("efficiency", "Efficiency", not alone, lambda: figures.efficiency(result)),
        ("step_time", "Step time", True, lambda: figures.step_time(result)),
        ("throughput", "Throughput", True, lambda: figures.throughput(result)),
        ("phases", "Phases of a step", True, lambda: figures.phases(result)),
        ("exposed", "Exposed communication", has_exposed(result), lambda: figures.exposed(result)),
        ("loss_by_step", "Loss by step", has_losses(result), lambda: figures.loss_by_step(result)),
        ("loss_by_time", "Loss by time", has_losses(result), lambda: figures.loss_by_time(result)),
        ("per_rank", "Ranks", any(ranks.values()) and not alone, lambda: figures.per_rank(result, ranks)),
    ]
    if not result.cells:
        return []
    drawn: list[Plate] = []
    for key, title, applies, draw in wanted:
        if applies:
            alt = f"{title}. {captions.alt(result, key)}"
            markup = Markup(svg.inline(draw(), key.replace("_", "-"), alt))  # every text in it is escaped by svg
            drawn.append(Plate(key, len(drawn) + 1, title, markup, getattr(captions, key)(result)))
    return drawn


def findings(result: StudyResult) -> list[Finding]:
    """Return every problem, the study's first, those that block before those that warn."""
    names = labels.cell_labels(result)
    found = [Finding("", p.rule, p.severity, p.message) for p in result.problems]
    found += [Finding(names[c.name], p.rule, p.severity, p.message) for c in result.cells for p in c.problems]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.severity != "blocks")


def settings(config: dict[str, Any], origins: dict[str, Origin]) -> list[Setting]:
    """Return the config's values that differ from the defaults, with their origins where the run recorded them."""
    defaults = _leaves(Config().model_dump(mode="json"))
    changed = {key: value for key, value in _leaves(config).items() if key not in defaults or value != defaults[key]}
    return [
        Setting(key, json.dumps(value, ensure_ascii=False), origins[key].source if key in origins else "not recorded")
        for key, value in changed.items()
    ]


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a tree to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
