"""Makes README's figures and its block of text from a study that `make study` has run.

python docs/make_readme_figure.py out/study   read the study; write docs/images/* and README's block
python docs/make_readme_figure.py --check     exit with 1 unless README agrees with docs/images/readme_results.json
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from rich.console import Console

from worldsize.errors import UserError
from worldsize.report import figures
from worldsize.report.table import WIDTH, table, verdict_text
from worldsize.study.records import StudyResult
from worldsize.study.results import analyse

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"
RESULTS = IMAGES / "readme_results.json"
BEGIN, END = "<!-- begin: docs/make_readme_figure.py -->", "<!-- end: docs/make_readme_figure.py -->"
FIGURES = {"speedup": figures.speedup, "phases": figures.phases}


def anonymous(result: StudyResult) -> StudyResult:
    """Return the result without the machine's name and folders, and with the command that README gives."""
    environment = result.environment and result.environment.model_copy(update={"hostname": "not recorded"})
    data = result.config.get("data", {})
    config = {**result.config, "data": {**data, "cache_dir": None}}
    return result.model_copy(update={"environment": environment, "config": config, "command": ["make", "study"]})


def block(result: StudyResult) -> str:
    """Return what stands between BEGIN and END in README: the machine, the table, the verdict without its evidence."""
    text = io.StringIO()
    console = Console(file=text, width=WIDTH, highlight=False, color_system=None)
    verdict = result.verdict.model_copy(update={"evidence": []})
    console.print(table(result), "", verdict_text(verdict), markup=False)
    lines = "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")
    return f"```text\n{lines}\n```\n\n{_machine(result)}\n"


def _machine(result: StudyResult) -> str:
    environment = result.environment
    if environment is None:
        return ""
    return (
        f"Measured on {environment.num_cores} cores of {environment.cpu_name or 'an unnamed CPU'} with torch "
        f"{environment.torch}; a device is {environment.threads_per_rank} core."
    )


def with_block(readme: str, text: str) -> str:
    """Return README's text with the block replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{text}{END}{rest.split(END)[1]}"


def committed() -> StudyResult:
    """Return the result that README's numbers come from."""
    return StudyResult.model_validate_json(RESULTS.read_bytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="?", type=Path, help="a finished study's folder")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    if arguments.check or arguments.study is None:
        current = README.read_text("utf-8")
        return 0 if with_block(current, block(committed())) == current else 1
    try:
        result = anonymous(analyse(arguments.study))
    except UserError as error:
        parser.error(str(error))
    IMAGES.mkdir(exist_ok=True)
    RESULTS.write_text(result.model_dump_json(indent=1) + "\n", "utf-8")
    for name, draw in FIGURES.items():
        figures.save(draw(result), IMAGES / f"readme_{name}.png")
    README.write_text(with_block(README.read_text("utf-8"), block(result)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
