"""The conformance page: how it is made from the suite's outcomes, and that it knows every row there is."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

from tests.conformance.test_strategies import ALL_PAIRS
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
        outcome("test_double.py::test_losses[dp\\xd7tp on 4]"),
        outcome("test_checkpoints.py::test_goes_on[ddp, bf16-2]"),
        outcome("test_strategies.py::test_no_row"),
        outcome("test_runs.py::test_a_run[ddp]", "skipped", "slow"),
    ]
    lines = module.page_of(outcomes, 12.3).splitlines()
    assert "| ddp, bf16 | 2, 4 | FAILED |  | 2 |" in lines
    assert "| zero | a |  |  |  |" in lines
    assert "| dp×tp |  |  | 4 |  |" in lines
    assert "- a: not movable" in lines
    assert {"1. losses", "2. weights", "3. in fp64, losses", "4. resumed, goes on"} <= set(lines)
    assert {"| strategies: no row | 1 | 0 | 0 |", "| runs: a run | 0 | 1 | 0 |"} <= set(lines)


def test_the_page_holds_every_row_and_nothing_failed() -> None:
    page = (ROOT / "docs" / "reference" / "conformance.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", page, re.MULTILINE))
    assert {name for name, _ in ALL_PAIRS} <= rows.keys(), "run docs/generate_conformance.py"
    assert "FAILED" not in page.split("## Properties")[0].split("| --- |")[1]
    for name, num_ranks in ALL_PAIRS:
        assert str(num_ranks) in re.findall(r"\d+", rows[name]), (
            f"{name} on {num_ranks}: run docs/generate_conformance.py"
        )
