"""The conformance page: how it is made from the suite's outcomes, and that it knows every row there is."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

from tests.conformance.test_strategies import PAIRS
from tests.docs.pages import ROOT


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_conformance", ROOT / "docs" / "generate_conformance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def outcome(test: str, outcome: str = "passed", reason: str | None = None) -> dict[str, str | None]:
    return {"test": f"tests/conformance/{test}", "outcome": outcome, "reason": reason}


def test_cells_say_on_how_many_ranks_or_why_not() -> None:
    module = generator()
    outcomes = [
        outcome("test_strategies.py::test_losses[ddp, bf16 on 2]"),
        outcome("test_strategies.py::test_losses[ddp, bf16 on 4]"),
        outcome("test_strategies.py::test_losses[zero on 2]", "skipped", "not movable"),
        outcome("test_strategies.py::test_weights[ddp, bf16 on 2]", "failed"),
        outcome("test_strategies.py::test_weights[zero]"),
        outcome("test_strategies.py::test_no_row"),
        outcome("test_runs.py::test_a_run[ddp]"),
    ]
    lines = module.page_of(module.cells_of(outcomes), 12.3).splitlines()
    assert "| ddp, bf16 | 2, 4 | FAILED |" in lines
    assert "| zero | a | 2 |" in lines
    assert "- a: not movable" in lines
    assert {"1. losses", "2. weights"} <= set(lines)
    assert not any("no row" in line or "a run" in line for line in lines[8:])


def test_the_page_holds_every_row_and_nothing_failed() -> None:
    page = (ROOT / "docs" / "reference" / "conformance.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", page, re.MULTILINE))
    assert {name for name, _ in PAIRS} <= rows.keys(), "run docs/generate_conformance.py"
    assert "FAILED" not in page.split("## Properties")[0].split("| --- |")[1]
    for name, num_ranks in PAIRS:
        assert str(num_ranks) in rows[name].split(" | ")[0], f"{name} on {num_ranks}: run docs/generate_conformance.py"
