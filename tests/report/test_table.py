"""The printed study: figures from the result, within 100 columns."""

from __future__ import annotations

import io
import json
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
    for figure in ("64", "61.0 ms", "134 k", "1.72x", "86 %", "10 %", "300 MiB", "3.1"):
        assert figure in row, figure
    assert "1.72-1.72" in text
    assert "baseline" in text


@pytest.mark.parametrize("vary", [{}, {"model.num_layers": [2, 4]}])
def test_it_fits_a_hundred_columns_and_folds_nothing_away(tmp_path: Path, vary: dict[str, Any]) -> None:
    text = printed(
        tmp_path, world_sizes=(1, 2, 4, 64), global_batches=(64, 1024), vary=vary, environment={"num_cores": 128}
    )
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text.split("Why")[0]


def test_it_fits_eighty_columns_where_nothing_varies(tmp_path: Path) -> None:
    result = analyse(
        make_study(tmp_path, world_sizes=(1, 2), global_batches=(1024,), faults={"n2-b1024": {"slow_rank": 1}})
    )
    stream = io.StringIO()
    Console(file=stream, width=80).print(table(result))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("300 MiB", "200 MiB", "baseline", "speedup", "memory", "tokens", "warned"):
        assert whole in text


def test_problems_are_told_once(tmp_path: Path) -> None:
    text = " ".join(printed(tmp_path, faults={"n2-b64": {"out_of_step": 0.08}}).split())
    assert text.count("cannot differ in step time") == 1


def test_problems_of_cells_that_the_verdict_passes_over_stand_below(tmp_path: Path) -> None:
    text = " ".join(printed(tmp_path, global_batches=(64, 128), faults={"n2-b64": {"out_of_step": 0.08}}).split())
    assert "n2-b64, out-of-lock-step: ranks in lock-step" in text


def test_refused_overridden_and_warned_cells_are_marked(tmp_path: Path) -> None:
    fault = {"n2-b64": {"every_rank_all_data": True}}
    refused = printed(tmp_path / "a", faults=fault)
    assert "refused" in refused.split("No speedup")[0]
    assert "n2-b64 (every-rank-all-data): each rank" in " ".join(refused.split())
    assert "(!)" in printed(tmp_path / "b", faults=fault, override=True)
    assert "warned" in printed(tmp_path / "c", faults={"n2-b64": {"slow_rank": 1}})


def test_the_verdict_has_its_four_parts_in_order(tmp_path: Path) -> None:
    text = printed(tmp_path)
    places = [text.index(part) for part in ("2 devices are", "\nWhy", "\nNext", "\nEvidence")]
    assert places == sorted(places)


def test_the_time_to_the_studys_loss_stands_below_the_loss(tmp_path: Path) -> None:
    # losses 30, 29 … 6: the mean of the last five is 8, after 25 steps of 61 ms
    text = printed(tmp_path, noise=0.0, losses=[30.0 - step for step in range(25)])
    assert "s to" in text
    assert "8.00" in text
    assert "1.52" in text
    assert "*" not in text


def test_unequal_batches_show_the_loss_at_equal_tokens(tmp_path: Path) -> None:
    # after 12 of 25 steps of twice the batch the mean is 33 - 12 = 21
    text = printed(tmp_path, noise=0.0, scaling="weak", losses=[30.0 - step for step in range(25)])
    assert "loss*" in text
    assert "21.000" in text
    assert "* after 204,800 tokens" in text


def test_a_cap_that_was_hit_is_told(tmp_path: Path) -> None:
    folder = make_study(tmp_path, noise=0.02)
    plan = json.loads((folder / "study.json").read_text()) | {"until": 0.0001, "max_repeats": 3}
    (folder / "study.json").write_text(json.dumps(plan))
    stream = io.StringIO()
    Console(file=stream, width=WIDTH).print(table(analyse(folder)))
    text = " ".join(stream.getvalue().split())
    assert "until-not-reached: intervals are still wider than 0.01%: n2-b64" in text
