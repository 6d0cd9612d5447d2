"""The printed study: figures from the result, within 100 columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.study.synthetic import make_study
from worldsize.report.table import WIDTH, table, verdict_text
from worldsize.study.results import analyse


def printed(folder: Path, *, override: bool = False, **study: Any) -> str:
    result = analyse(make_study(folder, **study), override)
    stream = io.StringIO()
    Console(file=stream, width=WIDTH).print(table(result), verdict_text(result.verdict))
    return stream.getvalue()


def test_a_row_holds_the_cells_figures(tmp_path: Path) -> None:
    text = printed(tmp_path, noise=0.0)
    row = next(line for line in text.splitlines() if line.strip().startswith("2 "))
    for figure in ("64", "61.0 ms", "134 k", "1.72x", "86 %", "10 %", "400 MiB", "3.1"):
        assert figure in row, figure
    assert "1.72-1.72" in text
    assert "baseline" in text


@pytest.mark.parametrize("vary", [{}, {"model.num_layers": [2, 4]}])
def test_it_fits_a_hundred_columns_and_folds_nothing_away(tmp_path: Path, vary: dict[str, Any]) -> None:
    text = printed(
        tmp_path, world_sizes=(1, 2, 4, 128), global_batches=(128, 2048), vary=vary, environment={"num_cores": 128}
    )
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text.split("Why")[0]


def test_refused_overridden_and_warned_cells_are_marked(tmp_path: Path) -> None:
    fault = {"n2-b64": {"every_rank_all_data": True}}
    refused = printed(tmp_path / "a", faults=fault)
    assert "comparable" in refused
    assert "n2-b64, every-rank-all-data: each rank consumed" in refused
    assert "(!)" in printed(tmp_path / "b", faults=fault, override=True)
    assert "1 warning" in " ".join(printed(tmp_path / "c", faults={"n2-b64": {"slow_rank": 1}}).split())


def test_the_verdict_has_its_four_parts_in_order(tmp_path: Path) -> None:
    text = printed(tmp_path)
    places = [text.index(part) for part in ("2 devices are", "\nWhy", "\nNext", "\nEvidence")]
    assert places == sorted(places)
