"""What-ifs of whole studies: the model is fitted to the study's own cells and asked what the study did not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.study.synthetic import make_study
from tests.study.synthetic_work import phases_of
from worldsize.scaling.what_if import WhatIf
from worldsize.study.records import StudyResult
from worldsize.study.results import analyse


def study(folder: Path, **more: Any) -> StudyResult:
    return analyse(make_study(folder, **{"global_batches": (64, 128), **more}))


def batches(result: StudyResult) -> dict[int, WhatIf]:
    return {
        one.global_batch: one
        for one in result.what_ifs
        if one.payload_factor == one.link_factor == 1 and one.num_micro == 1
    }


@pytest.mark.parametrize("scaling", ["strong", "weak"])
def test_a_batch_that_was_not_run_is_foretold(tmp_path: Path, scaling: str) -> None:
    # 4 devices, batch B: 100 B / 64 / 4 + 5 + 6 ms; one device with the same batch (weak: the same share) beside it
    result = study(tmp_path, world_sizes=(1, 2, 4), scaling=scaling, noise=0.003)
    asked = batches(result)
    largest = max(cell.global_batch for cell in result.cells)
    assert largest not in asked  # it was measured
    for batch, what_if in asked.items():
        ours = 0.1 * batch / 64 / 4 + 0.011
        alone = 0.1 * batch / 64 / (4 if scaling == "weak" else 1) + 0.005
        truth = alone / ours * (4 if scaling == "weak" else 1)
        assert what_if.speedup is not None
        assert what_if.speedup.low is not None
        assert what_if.speedup.high is not None
        assert what_if.speedup.low <= truth <= what_if.speedup.high
    assert len(asked) == 2


def test_without_noise_the_answers_are_exact(tmp_path: Path) -> None:
    # the subject is 2 devices at 128: 256 samples take 405 against 211, 512 take 805 against 411
    asked = batches(study(tmp_path, noise=0.0))
    speedups = {batch: one.speedup.value for batch, one in asked.items() if one.speedup}
    assert speedups == pytest.approx({256: 405 / 211, 512: 805 / 411}, rel=1e-4)


def test_one_batch_says_nothing_of_others(tmp_path: Path) -> None:
    # a fixed cost and what devices lose to each other look alike in one batch
    result = study(tmp_path, global_batches=(64,), noise=0.003)
    assert {(one.payload_factor, one.link_factor) for one in result.what_ifs} == {(0.5, 1.0), (1.0, 2.0)}
    assert any("measure a second batch to know" in line for line in result.verdict.next)


def test_a_link_that_nobody_can_buy_is_not_advised(tmp_path: Path) -> None:
    slow = {f"n2-b{batch}": {"phases": phases_of(2, batch, exposed_s=0.05)} for batch in (64, 128)}
    result = study(tmp_path / "cpu", faults=slow, noise=0.003)
    assert not any("link" in line for line in result.verdict.next)
    gpu = {"device_kind": "cuda", "device_names": ["A GPU"] * 2, "backend": "nccl"}
    slow = {name: fault | {"environment": gpu} for name, fault in slow.items()}
    gpus = study(tmp_path / "gpu", faults=slow, environment=gpu | {"device_names": ["A GPU"]}, noise=0.003)
    assert any("link 2 times as fast" in line for line in gpus.verdict.next)


def test_answers_that_say_nothing_are_said_to(tmp_path: Path) -> None:
    # 60 ms of exchange on two devices and on four: no ring does that, and the model's intervals show it
    faults = {f"n{n}-b{b}": {"phases": phases_of(n, b, exposed_s=0.06)} for n in (2, 4) for b in (16, 32)}
    result = study(tmp_path, world_sizes=(1, 2, 4), global_batches=(16, 32), faults=faults, noise=0.005)
    assert any(
        line.startswith("What another batch or smaller gradients would give cannot be said")
        for line in result.verdict.next
    )
    assert not any("by the model fitted" in line for line in result.verdict.next)


def test_no_model_of_other_layouts_or_refused_cells(tmp_path: Path) -> None:
    refused = {f"n2-b{batch}": {"every_rank_all_data": True} for batch in (64, 128)}
    assert study(tmp_path / "a", faults=refused).what_ifs == []
    folder = make_study(tmp_path / "b", global_batches=(64, 128))
    for path in folder.glob("runs/n2-*/r*/r*.json"):
        record = json.loads(path.read_text()) | {"layout": {"dp": 1, "fsdp": 1, "tp": 2, "pp": 1}}
        path.write_text(json.dumps(record))
    assert analyse(folder).what_ifs == []
