"""Time to a loss and loss at equal tokens, on losses whose answer can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.study.synthetic import make_study
from worldsize.scaling.time_to_loss import WINDOW, smoothed
from worldsize.study.records import StudyResult
from worldsize.study.results import analyse

DOWN = [float(30 - step) for step in range(25)]  # 30, 29 … 6; the mean of five ending at step k (from 1) is 33 - k


def study(folder: Path, target: float | None = None, **more: Any) -> StudyResult:
    made = make_study(folder, **{"noise": 0.0, "losses": DOWN, **more})
    plan = json.loads((made / "study.json").read_text()) | {"target_loss": target}
    (made / "study.json").write_text(json.dumps(plan))
    return analyse(made)


def test_the_default_target_is_what_all_reach(tmp_path: Path) -> None:
    # the last mean is (10 + 9 + 8 + 7 + 6) / 5 = 8, after all 25 steps of 61 ms
    cell = study(tmp_path).cells[1]
    assert cell.time_to_loss is not None
    assert cell.time_to_loss.target == pytest.approx(8)
    assert cell.time_to_loss.steps == 25
    assert cell.time_to_loss.tokens == 25 * 64 * 128
    assert cell.time_to_loss.seconds.median == pytest.approx(25 * 0.061)


def test_a_given_target(tmp_path: Path) -> None:
    # 33 - k <= 20 first at step 13
    baseline, cell = study(tmp_path, target=20.0).cells
    assert baseline.time_to_loss is not None
    assert cell.time_to_loss is not None
    assert (baseline.time_to_loss.steps, cell.time_to_loss.steps) == (13, 13)
    assert baseline.time_to_loss.seconds.median == pytest.approx(13 * 0.105)
    assert cell.time_to_loss.seconds.samples == pytest.approx([13 * 0.061] * 3)


def test_a_target_that_nobody_reaches(tmp_path: Path) -> None:
    result = study(tmp_path, target=1.0)
    assert [cell.time_to_loss for cell in result.cells] == [None, None]
    assert not any("Time to a loss" in line for line in result.verdict.evidence)


def test_the_slowest_learner_sets_the_default(tmp_path: Path) -> None:
    # the larger batch falls half as fast: 31.5 - 0.5 k at step k, 19 at the end; the smaller gets there at step 14
    slow = [30 - step / 2 for step in range(25)]
    faults = {f"n{n}-b128": {"losses": slow} for n in (1, 2)}
    result = study(tmp_path, global_batches=(64, 128), faults=faults)
    times = {cell.name: cell.time_to_loss for cell in result.cells}
    assert {name: time and (time.target, time.steps) for name, time in times.items()} == {
        "n1-b64": (19.0, 14),
        "n2-b64": (19.0, 14),
        "n1-b128": (19.0, 25),
        "n2-b128": (19.0, 25),
    }


def test_loss_at_equal_tokens_stands_beside_unequal_batches(tmp_path: Path) -> None:
    # 25 steps of 64 samples are 12.5 of 128: after 12 steps the mean is 33 - 12
    result = study(tmp_path, scaling="weak")
    baseline, cell = result.cells
    assert baseline.equal_tokens is not None
    assert cell.equal_tokens is not None
    assert (baseline.equal_tokens.loss, cell.equal_tokens.loss) == pytest.approx((8, 21))
    assert baseline.equal_tokens.tokens == cell.equal_tokens.tokens == 25 * 64 * 128
    assert any("21.000 at a global batch of 128, 8.000 at 64" in line for line in result.verdict.evidence)


def test_refused_cells_take_no_part(tmp_path: Path) -> None:
    result = study(tmp_path, faults={"n2-b64": {"every_rank_all_data": True, "losses": [40.0] * 25}})
    assert result.cells[1].time_to_loss is None
    assert result.cells[0].time_to_loss is not None
    assert result.cells[0].time_to_loss.target == pytest.approx(8)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40))
def test_smoothing_is_the_mean_of_the_last_steps(losses: list[float]) -> None:
    curve = smoothed(losses)
    window = min(WINDOW, len(losses))
    assert len(curve) == len(losses) - window + 1
    assert curve[-1] == pytest.approx(float(np.mean(losses[-window:])), abs=1e-9)
    assert curve.min() >= min(losses) - 1e-9
