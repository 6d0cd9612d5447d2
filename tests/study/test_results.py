"""From folders to a study's result; damaged files are named, whatever is wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.study.synthetic import make_run, make_study
from tests.study.synthetic_work import losses_of, phases_of
from worldsize.errors import UserError
from worldsize.study.records import RunFailure, StudyResult
from worldsize.study.results import analyse, from_runs, read_run, read_steps


def test_cells_sum_up_their_runs(tmp_path: Path) -> None:
    baseline, cell = analyse(make_study(tmp_path, noise=0.0)).cells
    assert cell.step_time_s
    assert cell.step_time_s.samples == pytest.approx([0.061] * 3)
    assert cell.phases_s == pytest.approx(phases_of(2, 64))
    assert cell.tokens_per_s
    assert cell.tokens_per_s.median == pytest.approx(64 * 128 / 0.061)
    assert cell.speedup
    assert cell.speedup.samples == pytest.approx([105 / 61] * 3)
    assert cell.efficiency
    assert cell.efficiency.median == pytest.approx(105 / 61 / 2)
    assert cell.exposed_communication_share == pytest.approx(6 / 61)
    assert cell.compute_to_communication == pytest.approx(50 / 6)
    assert cell.peak_memory_bytes == 400 * 2**20 + 1
    assert cell.allocated_bytes == 300 * 2**20 + 1
    assert cell.held_bytes == 200 * 2**20
    assert cell.runs == ["runs/n2-b64/r1", "runs/n2-b64/r2", "runs/n2-b64/r3"]
    assert cell.losses == losses_of(25, 0, 64)
    assert (baseline.is_baseline, baseline.baseline, cell.baseline) == (True, None, "n1-b64")
    assert baseline.compute_to_communication is None
    assert baseline.exposed_communication is None


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_books_of_a_cell_close(tmp_path: Path, noise: float) -> None:
    for cell in analyse(make_study(tmp_path, noise=noise)).cells:
        assert cell.step_time_s
        assert sum(cell.phases_s.values()) == pytest.approx(cell.step_time_s.median)


def test_weak_efficiency_is_rate_per_device(tmp_path: Path) -> None:
    cell = analyse(make_study(tmp_path, scaling="weak", noise=0.0)).cells[1]
    assert cell.efficiency
    assert cell.efficiency.median == pytest.approx(105 / 111)


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = analyse(make_study(tmp_path))
    assert StudyResult.model_validate_json(result.model_dump_json()) == result


def test_missing_repeats_are_told_and_pairs_kept(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    shutil.rmtree(folder / "runs/n2-b64/r2")
    failed = folder / "runs/n1-b64/r3"
    (failed / "result.json").unlink()
    (failed / "failure.json").write_text(RunFailure(run="runs/n1-b64/r3", reason="rank 0 died").model_dump_json())
    result = analyse(folder)
    assert [(p.rule, p.message.split(";")[0]) for p in result.problems] == [
        ("unfinished", "4 of 6 runs finished, 1 failed")
    ]
    assert result.cells[0].failures[0].reason == "rank 0 died"
    assert result.cells[1].speedup
    assert len(result.cells[1].speedup.samples) == 1  # only round 1 has both
    assert "runs/n1-b64/r3 failed: rank 0 died" in result.verdict.why


def test_without_a_baseline_there_is_no_speedup(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    shutil.rmtree(folder / "runs/n1-b64")
    result = analyse(folder)
    assert [problem.rule for problem in result.cells[1].problems] == ["no-baseline"]
    assert result.verdict.headline.startswith("No speedup is given")


def test_any_runs_make_a_study(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{n}-{layers}-{r}", world_size=n, config={"model.num_layers": layers}, noise_seed=r)
        for n in (1, 2)
        for layers in (2, 4)
        for r in range(3)
    ]
    result = from_runs(runs)
    assert result.scaling == "strong"
    assert {cell.name: cell.baseline for cell in result.cells} == {
        "n1-b64-num_layers2": None,
        "n2-b64-num_layers2": "n1-b64-num_layers2",
        "n1-b64-num_layers4": None,
        "n2-b64-num_layers4": "n1-b64-num_layers4",
    }
    assert all(len(cell.runs) == 3 for cell in result.cells)
    assert all(cell.speedup for cell in result.cells if not cell.is_baseline)


def test_two_axes_at_once(tmp_path: Path) -> None:
    settings_of = [{"model.num_layers": n, "train.precision": p} for n in (2, 4) for p in ("fp32", "bf16")]
    runs = [
        make_run(tmp_path / f"{n}-{index}", world_size=n, config=chosen)
        for n in (1, 2)
        for index, chosen in enumerate(settings_of)
    ]
    result = from_runs(runs)
    assert len(result.cells) == 8
    assert {cell.name.replace("n2", "n1") == cell.baseline for cell in result.cells if not cell.is_baseline} == {True}


def test_any_runs_of_a_growing_batch_are_weak_scaling(tmp_path: Path) -> None:
    result = from_runs([make_run(tmp_path / str(n), world_size=n, global_batch=32 * n) for n in (1, 2, 4)])
    assert result.scaling == "weak"
    assert all(cell.efficiency and not cell.speedup for cell in result.cells if not cell.is_baseline)


def test_unlike_runs_are_compared_with_the_nearest_and_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", world_size=2, config={"train.precision": "bf16"})]
    result = from_runs(runs)
    unlike = next(cell for cell in result.cells if cell.world_size == 2)
    assert unlike.baseline == "n1-b64-precisionfp32"
    assert "different-precision" in {problem.rule for problem in unlike.problems}
    assert unlike.speedup is None


def test_one_run_is_a_measurement(tmp_path: Path) -> None:
    result = from_runs([make_run(tmp_path / "alone")])
    assert (result.title, len(result.cells)) == ("alone", 1)


def test_folders_that_hold_no_run_or_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no study folder"):
        analyse(tmp_path)
    with pytest.raises(UserError, match="is no run folder"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="no run folders were given"):
        from_runs([])
    run = make_run(tmp_path / "run")
    (run / "result.json").unlink()
    with pytest.raises(UserError, match="did not finish"):
        read_run(run)


def test_a_bad_step_row_is_named_by_line_and_field(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run / "steps.rank0.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace('"wall_s":', '"wall":')
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"steps\.rank0\.jsonl, line 3: wall_s: Field required"):
        read_steps(run)


def test_a_newer_file_is_named_as_such(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    tree = json.loads((run / "result.json").read_text()) | {"schema_version": 99, "news": 1}
    (run / "result.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"schema_version is 99; this worldsize reads 1"):
        read_run(run)


def test_a_moved_run_is_noticed(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    shutil.rmtree(folder / "runs/n2-b64/r1")
    shutil.copytree(folder / "runs/n1-b64/r1", folder / "runs/n2-b64/r1")
    with pytest.raises(UserError, match="Was the folder moved"):
        analyse(folder)


FILES = (
    "study.json",
    "runs/n1-b64/r1/run.json",
    "runs/n1-b32/r1/result.json",
    "runs/n2-b64/r1/result.json",
    "runs/n2-b64/r1/steps.rank1.jsonl",
)
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(10**20, 10**400), st.floats(),
    st.sampled_from(["", "x", "é", "\ud800"]), st.just([]), st.just({}), st.lists(st.integers(-1, 1), max_size=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return make_study(folder, global_batches=(32, 64), repeats=2, num_steps=24, num_warmup_steps=4, noise_scale=100.0)


def places(tree: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value of a JSON tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [here, *(place for key, value in items for place in places(value, (*here, key)))]


def replaced(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[place[0]] = replaced(tree[place[0]], place[1:], value)
    return copy


@given(data=st.data(), name=st.sampled_from(FILES))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_damaged_files_end_in_a_message_or_a_result(small_study: Path, data: st.DataObject, name: str) -> None:
    path = small_study / name
    whole = path.read_bytes()
    message = str(small_study)
    try:
        if data.draw(st.booleans(), label="cut or fill"):
            cut = data.draw(st.integers(0, len(whole)))
            path.write_bytes(
                whole[:cut]
                + data.draw(st.binary(max_size=4))
                + whole[cut + data.draw(st.sampled_from([0, 4, 10**9])) :]
            )
        else:
            lines = whole.decode().splitlines() if name.endswith("l") else [whole.decode()]
            tree = json.loads(lines[-1])
            place = data.draw(st.sampled_from(places(tree)))
            lines[-1] = json.dumps(replaced(tree, place, data.draw(ODD)))
            path.write_text("\n".join(lines))
        result = analyse(small_study)
        StudyResult.model_validate_json(result.model_dump_json())
    except UserError as error:
        message = str(error)
    finally:
        path.write_bytes(whole)
    assert str(small_study) in message
