"""Each fault is named, and only that fault; clean studies raise nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.study.synthetic import make_study
from tests.study.synthetic_work import phases_of
from worldsize.records import Problem
from worldsize.scaling.rules import RULES, SPEEDUP_RULES
from worldsize.study.records import CellResult
from worldsize.study.results import analyse


def cell_of(folder: Path, name: str = "n2-b64", **study: Any) -> CellResult:
    result = analyse(make_study(folder, **study))
    return next(cell for cell in result.cells if cell.name == name)


def named(cell: CellResult) -> dict[str, Problem]:
    return {problem.rule: problem for problem in cell.problems}


def edit_results(folder: Path, cell: str, change: dict[str, Any]) -> None:
    """Overwrite top-level fields of every repeat's result."""
    for path in (folder / "runs" / cell).glob("r*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize("scaling", ["strong", "weak"])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
def test_a_clean_study_raises_nothing(tmp_path: Path, scaling: str, noise: float) -> None:
    folder = make_study(tmp_path, world_sizes=(1, 2, 4), global_batches=(64, 128), scaling=scaling, noise=noise)
    result = analyse(folder)
    assert [(cell.name, cell.problems) for cell in result.cells if cell.problems] == []
    assert result.problems == []


def test_a_sampler_that_gives_every_rank_all_data(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, faults={"n2-b64": {"every_rank_all_data": True}})
    problem = cell.problems[0]
    assert (problem.rule, problem.severity) == ("every-rank-all-data", "blocks")
    assert "each rank consumed all 64 samples of a step; 2x the samples" in problem.message
    assert cell.speedup is None


def test_ranks_with_different_seeds(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, faults={"n2-b64": {"ranks_seeded_differently": True}})
    assert {"ranks-start-apart", "samples-not-prescribed"} <= named(cell).keys()
    assert "differ between ranks" in named(cell)["ranks-start-apart"].message
    assert cell.speedup is None


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_rank_slowed_by_a_fifth(tmp_path: Path, noise: float) -> None:
    cell = cell_of(tmp_path, faults={"n2-b64": {"slow_rank": 1, "slowdown": 1.2}}, noise=noise)
    assert named(cell).keys() == {"slow-rank"}
    message = named(cell)["slow-rank"].message
    assert message.startswith("rank 1 computes")
    longer = int(message.split("computes ")[1].split(" %")[0])
    assert 18 <= longer <= 22
    assert cell.speedup is not None


def test_the_slow_one_of_four_is_named(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "n4-b64", world_sizes=(1, 4), faults={"n4-b64": {"slow_rank": 2}})
    assert [problem.message[:6] for problem in cell.problems] == ["rank 2"]


@pytest.mark.parametrize("slowdown", [1.0, 1.05, 1.08])
def test_ordinary_differences_between_ranks_pass(tmp_path: Path, slowdown: float) -> None:
    cell = cell_of(tmp_path, faults={"n2-b64": {"slow_rank": 0, "slowdown": slowdown}}, noise=0.02)
    assert cell.problems == []


def test_a_slow_rank_is_found_without_step_rows(tmp_path: Path) -> None:
    folder = make_study(tmp_path, faults={"n2-b64": {"slow_rank": 1}})
    for path in folder.glob("runs/*/r*/steps.rank*.jsonl"):
        path.unlink()
    assert [problem.rule for problem in analyse(folder).cells[1].problems] == ["slow-rank"]


def test_ranks_out_of_lock_step(tmp_path: Path) -> None:
    assert "out-of-lock-step" not in named(cell_of(tmp_path / "a", faults={"n2-b64": {"out_of_step": 0.03}}))
    assert "out-of-lock-step" in named(cell_of(tmp_path / "b", faults={"n2-b64": {"out_of_step": 0.08}}))


def test_more_ranks_than_cores_and_shared_cores(tmp_path: Path) -> None:
    few = cell_of(tmp_path / "a", environment={"num_cores": 1})
    assert "2 cores are needed (2 ranks), 1 exist" in named(few)["too-few-cores"].message
    shared = cell_of(tmp_path / "b", faults={"n2-b64": {"environment": {"pinned_cores": [[0], [0]]}}})
    assert named(shared).keys() == {"too-few-cores"}


def test_gloo_between_gpus_is_a_functional_check(tmp_path: Path) -> None:
    gpus = {"environment": {"device_kind": "cuda", "device_names": ["A GPU"] * 2}}
    cell = cell_of(tmp_path, environment={"device_names": ["A GPU"]}, faults={"n2-b64": gpus})
    assert named(cell).keys() == {"gloo-with-gpus"}


def test_too_few_repeats(tmp_path: Path) -> None:
    assert named(cell_of(tmp_path / "a", repeats=2)).keys() == {"few-repeats"}
    assert named(cell_of(tmp_path / "b", repeats=1))["few-repeats"].message.startswith("1 finished repeat:")


def test_noise_that_drowns_the_answer(tmp_path: Path) -> None:
    result = analyse(make_study(tmp_path, noise=0.15))
    assert {problem.rule for cell in result.cells for problem in cell.problems} >= {"noisy"}


def test_warmup_that_is_never_left(tmp_path: Path) -> None:
    assert named(cell_of(tmp_path / "a", config={"optimizer.warmup_steps": 24})) == {}
    cell = cell_of(tmp_path / "b", config={"optimizer.warmup_steps": 25})
    assert "25 warm-up steps, 25 steps" in named(cell)["warmup-never-left"].message


def test_more_than_linear_speedup(tmp_path: Path) -> None:
    fast = phases_of(2, 64, compute_s=0.08, exposed_s=0.001)
    cell = cell_of(tmp_path, faults={"n2-b64": {"phases": fast}})
    assert named(cell).keys() == {"super-linear"}
    assert cell.speedup is not None


def test_no_ratio_is_told_where_the_gate_blocks(tmp_path: Path) -> None:
    fault = {"phases": phases_of(2, 64, compute_s=0.02), "config": {"train.precision": "bf16"}}
    cell = cell_of(tmp_path, faults={"n2-b64": fault})
    assert named(cell).keys() == {"different-precision"}
    assert cell.speedup is None
    assert cell.efficiency is None


def test_books_bytes_and_measuring_cost(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    result = json.loads((folder / "runs/n2-b64/r1/result.json").read_text())
    bytes_seen = result["communication_bytes"]
    bytes_seen["observed"][0]["payload_bytes"] += 4
    cost = result["measuring_cost"] | {"share_of_step": 0.02}
    phases = result["phases_s"] | {"compute_s": result["phases_s"]["compute_s"] * 0.9}
    edit_results(folder, "n2-b64", {"communication_bytes": bytes_seen, "measuring_cost": cost, "phases_s": phases})
    cell = analyse(folder).cells[1]
    assert named(cell).keys() == {"books-do-not-close", "unpredicted-bytes", "measuring-costs"}


def test_unexplained_time(tmp_path: Path) -> None:
    phases = phases_of(2, 64) | {"other_s": 0.005}
    cell = cell_of(tmp_path, faults={"n2-b64": {"phases": phases}})
    assert "8 % of the step belongs to no known phase" in named(cell)["books-do-not-close"].message


def test_replicas_that_part_later(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    checksums = json.loads((folder / "runs/n2-b64/r1/result.json").read_text())["checksums"]
    checksums[1]["by_rank"][1] = "f" * 32
    edit_results(folder, "n2-b64", {"checksums": checksums})
    assert named(analyse(folder).cells[1]).keys() == {"ranks-part"}


def test_an_unfit_baseline_withholds_the_speedup(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    edit_results(folder, "n1-b64", {"samples_digest": "0" * 32})
    cell = analyse(folder).cells[1]
    assert "unfit-baseline" in named(cell)
    assert cell.speedup is None


def test_every_rule_says_what_it_is_for() -> None:
    assert all(rule.__doc__ for rule in (*RULES, *SPEEDUP_RULES))
