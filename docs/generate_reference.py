"""Writes the pages of docs/reference that follow from the code: commands, config keys, records, Python functions.

python docs/generate_reference.py            write them
python docs/generate_reference.py --check    say which are out of date, and exit with 1 if any is
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from worldsize import cli, records
from worldsize.bench.records import BenchResult
from worldsize.checkpoint_folder import Manifest
from worldsize.config import messages
from worldsize.config.load import presets
from worldsize.config.write import scalar
from worldsize.inference.quality_records import ClassifierQuality, Quality, TranslatorQuality
from worldsize.inference.quantization_records import QuantizationReport
from worldsize.launch.records import LaunchBook
from worldsize.study.records import RunFailure, StudyPlan, StudyResult
from worldsize.study.runner import RunTiming

REFERENCE = Path(__file__).parent / "reference"

FILES: tuple[tuple[str, str, type[Any]], ...] = (
    ("RUN/run.json", "Written before the first step.", records.RunRecord),
    ("RUN/steps.rank{R}.jsonl", "One line a step, appended at each window's edge; one file a rank.", records.StepRow),
    (
        "RUN/result.json",
        "Written last and atomically: where it is present, the run finished.",
        records.RunResult,
    ),
    ("STUDY/launch.json", "The jobs of `worldsize launch`, kept up to date while it follows them.", LaunchBook),
    (
        "RUN/checkpoints/step-{N}/manifest.json",
        "With every checkpoint; the tensors are in the safetensors files beside it.",
        Manifest,
    ),
    ("STUDY/study.json", "The grid. Written before the first run; a continuation may extend it.", StudyPlan),
    ("STUDY/order.jsonl", "One line for each run that was started, in the order of starting.", RunTiming),
    (
        "STUDY/runs/CELL/r{K}/failure.json",
        "Why a repeat did not finish. Gone once the repeat has finished.",
        RunFailure,
    ),
    ("BENCH/bench.json", "What `worldsize bench --json` prints.", BenchResult),
    (
        "DIR/quantization.json",
        "What `worldsize quantize --json` prints, in its --out.",
        QuantizationReport,
    ),
    ("evaluate --json (text)", "Printed by `evaluate` of a model of running text.", Quality),
    ("evaluate --json (classes)", "Printed by `evaluate` of a model that gives classes to texts.", ClassifierQuality),
    ("evaluate --json (translations)", "Printed by `evaluate` of a model that translates.", TranslatorQuality),
    ("STUDY/results.json", "What `worldsize study --json` and `worldsize report --json` print.", StudyResult),
)
"""Every JSON file and what `evaluate` prints, when it is written, and the record that a line or the whole of it is."""

OTHER_FILES = """\
| file | what it is |
| --- | --- |
| `RUN/trace.rank{R}.json.gz` | Chrome trace of the profiled steps, with `measure.keep_trace=true`; opens in Perfetto |
| `RUN/error.rank{R}.txt` | what a rank of a failed run wrote on standard error, with its traceback |
| `RUN/tensorboard/` | events, with `track.tensorboard=true` |
| `RUN/.lock`, `STUDY/.lock` | held while a process writes there; an empty file afterwards |
| `STUDY/runs/CELL/r{K}/` | the run folder of a cell's repeat; repeats count from 1 |
| `STUDY/report.html` | the report, which opens offline |
"""

PYTHON: tuple[tuple[str, str], ...] = (
    ("worldsize.config.load", "load"),
    ("worldsize.config.load", "resolve"),
    ("worldsize.config.load", "from_dict"),
    ("worldsize.config.rules", "check"),
    ("worldsize.config.cautions", "cautions"),
    ("worldsize.models.cost", "num_parameters"),
    ("worldsize.models.cost", "flop_per_token"),
    ("worldsize.models.cost", "describe"),
    ("worldsize.parallel.layout", "layout_for"),
    ("worldsize.parallel.layout", "batches_for"),
    ("worldsize.data.prepare", "prepare"),
    ("worldsize.launch.local", "launch"),
    ("worldsize.study.results", "read_run"),
    ("worldsize.study.results", "read_steps"),
    ("worldsize.study.results", "analyse"),
    ("worldsize.study.results", "from_runs"),
    ("worldsize.measure.statistics", "measured"),
    ("worldsize.scaling.speedup", "ratio"),
    ("worldsize.report.html", "render"),
    ("worldsize.report.study_document", "study_document"),
    ("worldsize.report.markdown", "markdown"),
    ("worldsize.report.export", "as_csv"),
    ("worldsize.report.figures", "save"),
)
"""Functions that scripts may call, in the order of the way of the data. All of them import without torch."""

NOTE = "<!-- Made by docs/generate_reference.py; edit the code's own descriptions instead. -->\n"


def commands_page() -> str:
    """Return the page of commands: their own help texts."""
    parts = [NOTE, "# Commands\n", "What `--help` prints. `python -m worldsize` is the same program.\n"]
    for command in ("", *cli.COMMANDS):
        parts += [f"## worldsize {command}".rstrip() + "\n", "```text", _help(command), "```\n"]
    parts.append(EXIT_CODES)
    return "\n".join(parts)


EXIT_CODES = """\
## Exit codes

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | a run failed; in a study, at least one repeat has no result |
| 2 | bad input: nothing was started |
| 70 | a mistake of worldsize's own; `WORLDSIZE_DEBUG=1` shows the traceback |
| 130 | stopped by Ctrl-C |
| 141 | whoever read the output left |

Errors go to standard error. With `--json` the error also goes to standard output, as an object with `error` and
`exit_code`.
"""


def _help(command: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    arguments = [sys.executable, "-m", "worldsize", *command.split(), "--help"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def config_page() -> str:
    """Return the page of config keys: every key with its default, what it may hold, and what it does."""
    parts = [
        NOTE,
        "# Config keys\n",
        "A config is a YAML file of sections with keys. Values come from four layers, later ones winning: the",
        "defaults below, then `--preset NAME`, then the file, then overrides on the command line such as",
        "`model.d_model=256`. `worldsize config` prints the outcome with the origin of every value;",
        "`worldsize config --schema` prints a JSON Schema for editors. `null` stands for unset.\n",
    ]
    for name, section in messages.sections().items():
        parts += [f"## {name}\n", f"{inspect.cleandoc(section.__doc__ or '')}\n"]
        parts += ["| key | default | may hold | what it is |", "| --- | --- | --- | --- |"]
        for key, field in section.model_fields.items():
            dotted = f"{name}.{key}"
            default = "none" if field.is_required() else f"`{scalar(field.default)}`"
            cells = (f"`{dotted}`", default, _cell(messages.allowed(dotted)), _cell(field.description or ""))
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    parts += ["## Presets\n", "| name | what it is for |", "| --- | --- |"]
    parts += [f"| `{name}` | {_cell(purpose)} |" for name, purpose in presets().items()]
    return "\n".join(parts) + "\n"


def records_page() -> str:
    """Return the page of files: every file of a run and of a study, with every field."""
    parts = [
        NOTE,
        "# Files and their fields\n",
        "A run is a folder, a study is a folder of runs. Field names end in their units; shares are 0 to 1; what could",
        f"not be found out is `null`. `schema_version` is {records.SCHEMA_VERSION}. Unknown fields are refused when a",
        "file is read.\n",
        OTHER_FILES,
    ]
    nested = nested_records()
    for name, when, record in FILES:
        parts += [f"## `{name}`\n", when + "\n", *_fields(record)]
    parts.append("# Records inside those files\n")
    for record in nested:
        parts += [f"## {record.__name__}\n", inspect.cleandoc(record.__doc__ or "") + "\n", *_fields(record)]
    return "\n".join(parts) + "\n"


def nested_records() -> list[type[Any]]:
    """Return the records that stand inside those of FILES, in the order in which they are met."""
    todo = [record for _, _, record in FILES]
    met: list[type[Any]] = []
    top = set(todo)
    while todo:
        for field in todo.pop(0).model_fields.values():
            found = [inner for inner in _classes_in(field.annotation) if inner not in (*top, *met)]
            met += found
            todo += found
    return met


def _classes_in(annotation: Any) -> list[type[Any]]:
    if inspect.isclass(annotation) and not get_args(annotation):
        return [annotation] if issubclass(annotation, records.Record) else []
    return [record for argument in get_args(annotation) for record in _classes_in(argument)]


def _fields(record: type[Any]) -> list[str]:
    lines = ["| field | type | what it is |", "| --- | --- | --- |"]
    for name, field in record.model_fields.items():
        lines.append(f"| `{name}` | {_type(field.annotation)} | {_cell(field.description or '')} |")
    return [*lines, ""]


def _type(annotation: Any) -> str:
    """Return a type in words; records link to their own sections."""
    if inspect.isclass(annotation) and not get_args(annotation):
        text = annotation.__name__
    else:
        text = re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(annotation)).replace("NoneType", "None")
    text = re.sub(r"Literal\[([^\]]+)\]", lambda found: found[1].replace(", ", " or "), text)
    text = _cell(re.sub(r"\bNone\b", "null", text))
    for record in nested_records():
        text = re.sub(rf"\b{record.__name__}\b", f"[{record.__name__}](#{record.__name__.lower()})", text)
    return text


def python_page() -> str:
    """Return the page of functions: signature and docstring."""
    parts = [
        NOTE,
        "# Python functions\n",
        "What scripts may call. None of these imports torch when it is imported, and those that only read results",
        "never do. Errors meant for people are `worldsize.errors.UserError`, a `ValueError`; a run that began and",
        "could not finish raises its subclass `RunError`. The records they return are on the page of",
        "[files and fields](records.md).\n",
        "```python",
        "from pathlib import Path",
        "",
        "from worldsize.study.results import analyse",
        "",
        'result = analyse(Path("out/study"))',
        "for cell in result.cells:",
        "    print(cell.name, cell.step_time_s.median, cell.speedup and cell.speedup.median)",
        "```\n",
    ]
    for module, name in PYTHON:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))
        docstring = inspect.cleandoc(function.__doc__ or "")
        parts += [f"## {module}.{name}\n", "```python", f"{name}{signature}", "```\n", docstring + "\n"]
    return "\n".join(parts)


def _cell(text: str) -> str:
    """Return text that fits one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def pages() -> dict[Path, str]:
    """Return every generated page by path."""
    return {
        REFERENCE / "commands.md": commands_page(),
        REFERENCE / "config.md": config_page(),
        REFERENCE / "records.md": records_page(),
        REFERENCE / "python.md": python_page(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(REFERENCE.parents[1])} {'is out of date' if check else 'written'}")
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages()[path], "utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
