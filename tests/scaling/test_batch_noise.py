"""The noise scale of a study's cells: norms are made from a known one, so the answer is known exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.study.synthetic import make_study
from worldsize.study.records import StudyResult
from worldsize.study.results import analyse


def study(folder: Path, **more: Any) -> StudyResult:
    return analyse(make_study(folder, **{"noise": 0.0, **more}))


@pytest.mark.parametrize("world_sizes", [(1, 2), (1, 4)])
def test_a_known_noise_scale_is_found(tmp_path: Path, world_sizes: tuple[int, ...]) -> None:
    baseline, cell = study(tmp_path, world_sizes=world_sizes, noise_scale=300.0).cells
    assert baseline.noise_scale is None
    assert cell.noise_scale is not None
    assert cell.noise_scale.noise_scale is not None
    assert cell.noise_scale.noise_scale.value == pytest.approx(300)
    assert cell.noise_scale.num_steps == 13  # the second half of 25
    assert cell.noise_scale.global_batch == 64


def test_far_below_the_noise_scale_a_larger_batch_helps(tmp_path: Path) -> None:
    advice = study(tmp_path, noise_scale=300.0).verdict.next
    assert any(line.startswith("A larger batch still helps training up to about 300 samples") for line in advice)


def test_beyond_the_noise_scale_it_does_not(tmp_path: Path) -> None:
    advice = study(tmp_path, noise_scale=20.0).verdict.next
    assert any(line.startswith("The batch of 64 is beyond what training needs") for line in advice)


def test_near_the_noise_scale_nothing_is_said(tmp_path: Path) -> None:
    assert not any("noise scale" in line for line in study(tmp_path, noise_scale=100.0).verdict.next)


def test_without_norms_of_ranks_there_is_none(tmp_path: Path) -> None:
    assert [cell.noise_scale for cell in study(tmp_path).cells] == [None, None]


def test_without_clipping_it_says_what_is_missing(tmp_path: Path) -> None:
    folder = make_study(tmp_path, noise_scale=300.0)
    for path in folder.glob("runs/*/r*/result.json"):
        result = json.loads(path.read_text())
        result["grad_norms"] = [None] * len(result["grad_norms"])
        path.write_text(json.dumps(result))
    found = analyse(folder).cells[1].noise_scale
    assert found is not None
    assert found.noise_scale is None
    assert "train.grad_clip_norm" in (found.absent_because or "")
