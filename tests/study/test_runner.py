"""The runner with a launcher that writes synthetic runs: order, resuming, refusing, failing and stopping."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.study.synthetic import make_run
from worldsize.checkpoint_folder import Manifest
from worldsize.config.load import load
from worldsize.errors import RunError, UserError
from worldsize.run_folder import locked, write_record
from worldsize.study.grid import cells_of, load_cells, parse_vary
from worldsize.study.live import Display
from worldsize.study.records import StudyPlan, StudyResult
from worldsize.study.runner import StoppedError, base_plan, run_study

OVERRIDES = ["train.steps=25", "device.kind=cpu"]


class FakeLauncher:
    """Writes what a run would leave; `trouble` maps a run's folder name ('n2-b64/r1') to what it raises instead."""

    def __init__(self, trouble: dict[str, BaseException] | None = None) -> None:
        self.trouble = trouble or {}
        self.launched: list[str] = []
        self.resumed: list[str] = []

    def __call__(
        self, loaded: Any, *, world_size: int, out: Path, command: Any, on_progress: Any, resume: bool
    ) -> bool:
        name = f"{out.parent.name}/{out.name}"
        self.launched.append(name)
        if resume:
            self.resumed.append(name)
        if name in self.trouble:
            out.mkdir(parents=True, exist_ok=True)
            (out / "run.json").write_text("{}")
            (out / "error.rank0.txt").write_text("details")
            raise self.trouble[name]
        config = loaded.config
        make_run(out, world_size=world_size, global_batch=config.train.global_batch, num_steps=config.train.steps,
                 seed=config.train.seed, config={"model.num_layers": config.model.num_layers})  # fmt: skip
        return True


@pytest.fixture(autouse=True)
def report(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("worldsize.report.html")
    module.render = lambda result, folder: f"<html>{result.verdict.headline}</html>"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "worldsize.report.html", module)


def run(out: Path, launch: FakeLauncher, *, overrides: list[str] | None = None, **grid: Any) -> tuple[StudyResult, str]:
    overrides = OVERRIDES + (overrides or [])
    values: dict[str, Any] = {
        "world_sizes": [1, 2],
        "global_batches": [64],
        "vary": {},
        "scaling": "strong",
        "repeats": 3,
    }
    plan: StudyPlan = base_plan(load(None, overrides).config, command=["worldsize", "study"], **(values | grid))
    cells = cells_of(plan)
    said = io.StringIO()
    display = Display(Console(file=said, width=200))
    result = run_study(plan, cells, load_cells(cells, None, overrides), out, display=display, launch=launch)
    return result, said.getvalue()


def test_a_whole_study(tmp_path: Path) -> None:
    launch = FakeLauncher()
    result, said = run(tmp_path, launch)
    assert launch.launched == ["n1-b64/r1", "n2-b64/r1", "n2-b64/r2", "n1-b64/r2", "n1-b64/r3", "n2-b64/r3"]
    assert result.cells[1].speedup
    assert StudyResult.model_validate_json((tmp_path / "results.json").read_text()) == result
    assert "2 devices are" in (tmp_path / "report.html").read_text()
    order = [json.loads(line) for line in (tmp_path / "order.jsonl").read_text().splitlines()]
    assert [line["run"].removeprefix("runs/") for line in order] == launch.launched
    assert {line["outcome"] for line in order} == {"finished"}
    assert "[6/6] n2-b64 repeat 3, about" in said
    assert "runs/n2-b64/r3 finished in" in said


def test_finished_runs_are_kept(tmp_path: Path) -> None:
    run(tmp_path, FakeLauncher())
    again = FakeLauncher()
    _, said = run(tmp_path, again)
    assert again.launched == []
    assert "6 of 6 runs are finished already and are kept." in said


def test_a_study_can_grow(tmp_path: Path) -> None:
    run(tmp_path, FakeLauncher())
    again = FakeLauncher()
    result, _ = run(tmp_path, again, world_sizes=[1, 2, 4], repeats=4)
    assert len(again.launched) == 12 - 6
    assert [len(cell.runs) for cell in result.cells] == [4, 4, 4]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"overrides": ["model.num_layers=6"]}, r"another config: model\.num_layers is 6, there 4"),
        ({"world_sizes": [1, 4]}, "it also has --nproc 2"),
        ({"global_batches": [128]}, "it also has --global-batch 64"),
        ({"repeats": 2}, "it also has --repeats 3"),
        ({"scaling": "weak"}, "a study of strong scaling, not weak"),
    ],
)
def test_a_different_study_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    run(tmp_path, FakeLauncher())
    before = (tmp_path / "study.json").read_text()
    launch = FakeLauncher()
    with pytest.raises(UserError, match=says):
        run(tmp_path, launch, **change)
    assert launch.launched == []
    assert (tmp_path / "study.json").read_text() == before


def test_lost_axes_are_refused_too(tmp_path: Path) -> None:
    run(tmp_path, FakeLauncher(), vary=parse_vary(["model.num_layers=2,4"]))
    with pytest.raises(UserError, match=r"--vary model\.num_layers 4"):
        run(tmp_path, FakeLauncher(), vary=parse_vary(["model.num_layers=2"]))


def test_a_finished_run_of_another_config_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/n1-b64/r1", config={"model.num_layers": 9})
    launch = FakeLauncher()
    with pytest.raises(
        UserError, match=r"runs/n1-b64/r1 holds a finished run of another config: model\.num_layers is 4, there 9"
    ):
        run(tmp_path, launch)
    assert launch.launched == []
    assert not (tmp_path / "study.json").exists()


def test_a_run_older_than_a_section_of_the_config_is_kept(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/n1-b64/r1")
    record = tmp_path / "runs/n1-b64/r1/run.json"
    written = json.loads(record.read_text())
    del written["config"]["checkpoint"], written["config"]["lab"]
    record.write_text(json.dumps(written))
    launch = FakeLauncher()
    run(tmp_path, launch)
    assert len(launch.launched) == 5


def test_a_failed_run_is_recorded_the_rest_goes_on_and_it_is_tried_again(tmp_path: Path) -> None:
    launch = FakeLauncher({"n2-b64/r1": RunError("rank 1 died at step 3")})
    result, said = run(tmp_path, launch)
    assert len(launch.launched) == 6
    assert [failure.reason for failure in result.cells[1].failures] == ["rank 1 died at step 3"]
    assert "runs/n2-b64/r1 failed after" in said
    failed = tmp_path / "runs/n2-b64/r1"
    assert json.loads((failed / "failure.json").read_text())["reason"] == "rank 1 died at step 3"
    assert (failed / "error.rank0.txt").exists()  # the reason may point to it
    assert result.cells[1].speedup  # from the rounds that both finished
    again = FakeLauncher()
    result, _ = run(tmp_path, again)
    assert again.launched == ["n2-b64/r1"]
    assert result.cells[1].failures == []


def test_all_runs_fail(tmp_path: Path) -> None:
    names = [f"n{n}-b64/r{r}" for n in (1, 2) for r in (1, 2, 3)]
    result, _ = run(tmp_path, FakeLauncher({name: RunError("no memory") for name in names}))
    assert result.verdict.headline == "No run finished, 6 failed."
    assert (tmp_path / "report.html").exists()


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    with pytest.raises(
        StoppedError, match=r"stopped in runs/n2-b64/r2; what is finished is kept\. The same command"
    ) as stopped:
        run(tmp_path, FakeLauncher({"n2-b64/r2": KeyboardInterrupt()}))
    assert stopped.value.exit_code == 130
    assert (tmp_path / "runs/n1-b64/r1/result.json").exists()
    assert not list((tmp_path / "runs/n2-b64/r2").glob("run.json"))
    assert json.loads((tmp_path / "order.jsonl").read_text().splitlines()[-1])["outcome"] == "stopped"
    again = FakeLauncher()
    run(tmp_path, again)
    assert again.launched == ["n2-b64/r2", "n1-b64/r2", "n1-b64/r3", "n2-b64/r3"]


def test_a_run_with_checkpoints_goes_on_from_them(tmp_path: Path) -> None:
    """Ctrl-C leaves a run's checkpoints; the next study resumes that run, and no other."""
    checkpoint = tmp_path / "runs/n2-b64/r2/checkpoints/step-00000040"
    checkpoint.mkdir(parents=True)
    manifest = Manifest(step=40, config={}, strategy="ddp", layout={"dp": 2}, world_size=2, numbers={})
    write_record(checkpoint / "manifest.json", manifest)
    with pytest.raises(StoppedError):
        run(tmp_path, FakeLauncher({"n2-b64/r2": KeyboardInterrupt()}))
    assert (checkpoint / "manifest.json").exists()
    again = FakeLauncher()
    run(tmp_path, again)
    assert again.resumed == ["n2-b64/r2"]


def test_two_studies_in_one_folder_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path, "study"), pytest.raises(UserError, match="is being written by another study"):
        run(tmp_path, FakeLauncher())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write into"):
        run(tmp_path / "file" / "study", FakeLauncher())


def test_the_time_left_follows_the_measured_runs(tmp_path: Path) -> None:
    cells = cells_of(base_plan(load(None).config, world_sizes=[1, 2], global_batches=[64], vary={}, scaling="strong",
                               repeats=2, command=[]))  # fmt: skip
    from worldsize.study.grid import order_of
    from worldsize.study.runner import RunTiming

    order = order_of(cells, 2)
    display = Display(Console(file=io.StringIO()))
    with display.showing(order, order):
        assert display.time_left_s() is None
        for planned, seconds in zip(order[:2], (10.0, 30.0), strict=True):
            timing = RunTiming(run=planned.folder, started_at="", wall_s=seconds, outcome="finished")
            display.ended(planned, timing, None)
            # after the first: three runs like it; after the second: one of 10 s and one of 30 s
        assert display.time_left_s() == 40.0


def test_the_live_table_is_drawn_on_a_terminal(tmp_path: Path) -> None:
    plan = base_plan(load(None, OVERRIDES).config, world_sizes=[1, 2], global_batches=[64], vary={}, scaling="strong",
                     repeats=2, command=[])  # fmt: skip
    cells = cells_of(plan)
    said = io.StringIO()
    display = Display(Console(file=said, force_terminal=True, width=100))
    run_study(plan, cells, load_cells(cells, None, OVERRIDES), tmp_path, display=display, launch=FakeLauncher())
    assert "n2-b64" in said.getvalue()
    assert "● ●" in said.getvalue()
