"""Lost time against figures worked out by hand: without noise a step takes 105 ms on one device and 61 ms on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.study.synthetic import make_study
from tests.study.synthetic_work import phases_of
from worldsize.study.records import LostTime
from worldsize.study.results import analyse


def lost(folder: Path, **study: Any) -> LostTime:
    found = analyse(make_study(folder, **{"noise": 0.0, **study})).cells[-1].lost_time
    assert found is not None
    return found


def test_every_part_by_hand(tmp_path: Path) -> None:
    # ideal 105 / 2; compute 50 against 100 / 2; optimizer 4 - 4 / 2; data and other 0.5 - 0.5 / 2
    found = lost(tmp_path)
    assert found.ideal_s == pytest.approx(0.0525)
    assert found.lost_s == pytest.approx(0.0085)
    assert found.parts_s == pytest.approx(
        {
            "waiting_s": 0.0,
            "transfer_s": 0.006,
            "compute_excess_s": 0.0,
            "optimizer_s": 0.002,
            "data_s": 0.00025,
            "bubble_s": 0.0,
            "other_s": 0.00025,
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("scaling", ["strong", "weak"])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_parts_sum_to_the_loss_and_the_loss_to_the_step(tmp_path: Path, scaling: str, noise: float) -> None:
    result = analyse(make_study(tmp_path, scaling=scaling, noise=noise, world_sizes=(1, 2, 4)))
    baseline = result.cells[0].step_time_s
    assert baseline is not None
    for cell in result.cells[1:]:
        assert cell.lost_time is not None
        assert cell.step_time_s is not None
        ideal_s = baseline.median / (cell.world_size if scaling == "strong" else 1)
        assert cell.lost_time.ideal_s == pytest.approx(ideal_s)
        assert cell.lost_time.lost_s == pytest.approx(cell.step_time_s.median - ideal_s)
        assert sum(cell.lost_time.parts_s.values()) == pytest.approx(cell.lost_time.lost_s, rel=1e-12)


def test_a_slow_rank_makes_the_other_wait(tmp_path: Path) -> None:
    # rank 1 computes 60 ms and shows 6 of communication, rank 0 computes 50 and shows 16: 5 of 11 are waiting
    found = lost(tmp_path, faults={"n2-b64": {"slow_rank": 1}})
    assert found.parts_s["waiting_s"] == pytest.approx(0.005)
    assert found.parts_s["transfer_s"] == pytest.approx(0.006)
    assert found.parts_s["compute_excess_s"] == pytest.approx(0.005)  # 55 on average, 50 would be its share


def test_ranks_that_take_turns_at_being_slow_wait_too(tmp_path: Path) -> None:
    folder = make_study(tmp_path, noise=0.0)
    for path in folder.glob("runs/n2-b64/r*/steps.rank*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:  # 10 ms move from compute to waiting in every other step of each rank: the mean stays
            waits = (row["step"] + ("rank1" in path.name)) % 2
            row["phases_s"]["exposed_communication_s"] = 0.002 + 0.008 * waits
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cell = analyse(folder).cells[1]
    assert cell.lost_time is not None
    # of a mean of 6 ms, 2 are seen by the rank that comes last: two thirds are waiting
    assert cell.lost_time.parts_s["waiting_s"] == pytest.approx(0.004)


def test_without_step_rows_the_ranks_medians_bound_the_transfer(tmp_path: Path) -> None:
    folder = make_study(tmp_path, noise=0.0, faults={"n2-b64": {"slow_rank": 1}})
    for path in folder.glob("runs/*/r*/steps.rank*.jsonl"):
        path.unlink()
    cell = analyse(folder).cells[1]
    assert cell.lost_time is not None
    assert cell.lost_time.parts_s["waiting_s"] == pytest.approx(0.005)


def test_clocks_that_disagree_split_nothing(tmp_path: Path) -> None:
    found = lost(tmp_path, faults={"n2-b64": {"out_of_step": 0.08}})
    assert {"waiting_s", "transfer_s"}.isdisjoint(found.parts_s)
    assert found.parts_s["exposed_communication_s"] > 0.005


def test_pipeline_stages_split_nothing(tmp_path: Path) -> None:
    folder = make_study(tmp_path, noise=0.0)
    for path in folder.glob("runs/n2-b64/r*/run.json"):
        record = json.loads(path.read_text())
        record["layout"] = {"dp": 1, "fsdp": 1, "tp": 1, "pp": 2}
        path.write_text(json.dumps(record))
    cell = analyse(folder).cells[1]
    assert cell.lost_time is not None
    assert "exposed_communication_s" in cell.lost_time.parts_s


def test_a_baseline_of_two_devices_lost_some_already(tmp_path: Path) -> None:
    # 61 ms on two, 25 + 4 + 6 + 1 = 36 on four: ideal 30.5; exposed 6 - 3, optimizer 4 - 2
    found = lost(tmp_path, world_sizes=(2, 4))
    assert found.lost_s == pytest.approx(0.0055)
    assert found.parts_s["transfer_s"] == pytest.approx(0.003)
    assert found.parts_s["optimizer_s"] == pytest.approx(0.002)


def test_time_that_was_won_is_below_zero(tmp_path: Path) -> None:
    found = lost(tmp_path, faults={"n2-b64": {"phases": phases_of(2, 64) | {"compute_s": 0.045}}})
    assert found.parts_s["compute_excess_s"] == pytest.approx(-0.005)


def test_there_is_none_for_baselines_and_refused_cells(tmp_path: Path) -> None:
    folder = make_study(tmp_path, faults={"n2-b64": {"every_rank_all_data": True}})
    for override in (False, True):
        assert [cell.lost_time for cell in analyse(folder, override).cells] == [None, None]
