"""`--until`: rounds until intervals are narrow, with launchers whose noise a test chooses."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.study.synthetic import make_run, make_study
from worldsize.config.load import load
from worldsize.errors import RunError, UserError
from worldsize.scaling.speedup import relative_width
from worldsize.study.cells import of_study
from worldsize.study.files import read_plan
from worldsize.study.grid import cells_of, load_cells, parse_share
from worldsize.study.live import Display
from worldsize.study.records import StudyResult
from worldsize.study.results import analyse
from worldsize.study.runner import StoppedError, base_plan, run_study

OVERRIDES = ["train.steps=25", "device.kind=cpu"]


class Noisy:
    """Writes runs whose noise depends on the cell; `trouble` maps a run ('n2-b64/r1') to what it raises instead."""

    def __init__(self, noise: dict[str, float], trouble: dict[str, BaseException] | None = None, **fault: Any) -> None:
        self.noise, self.trouble, self.fault = noise, trouble or {}, fault
        self.launched: list[str] = []

    def __call__(
        self, loaded: Any, *, world_size: int, out: Path, command: Any, on_progress: Any, resume: bool
    ) -> bool:
        name = f"{out.parent.name}/{out.name}"
        self.launched.append(name)
        if name in self.trouble:
            raise self.trouble[name]
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
        more = self.fault if world_size > 1 else {}
        make_run(out, world_size=world_size, global_batch=loaded.config.train.global_batch,
                 noise=self.noise.get(out.parent.name, 0.0), noise_seed=seed, **more)  # fmt: skip
        return True


def run(
    out: Path, launch: Noisy, until: float | None = 0.03, max_repeats: int = 10, **grid: Any
) -> tuple[StudyResult, str]:
    values: dict[str, Any] = {"world_sizes": [1, 2], "global_batches": [64], "vary": {}, "scaling": "strong",
                              "repeats": 3, "command": [], "until": until, "max_repeats": max_repeats}  # fmt: skip
    plan = base_plan(load(None, OVERRIDES).config, **(values | grid))
    cells = cells_of(plan)
    said = io.StringIO()
    display = Display(Console(file=said, width=200))
    result = run_study(plan, cells, load_cells(cells, None, OVERRIDES), out, display=display, launch=launch)
    return result, said.getvalue()


def num_runs(result: StudyResult) -> dict[str, int]:
    return {cell.name: len(cell.runs) for cell in result.cells}


def test_narrow_intervals_need_no_further_round(tmp_path: Path) -> None:
    launch = Noisy({"n1-b64": 0.002, "n2-b64": 0.002})
    result, said = run(tmp_path, launch)
    assert num_runs(result) == {"n1-b64": 3, "n2-b64": 3}
    assert result.problems == []
    assert "wider" not in said


def test_a_noisy_cell_and_its_baseline_run_on_until_it_is_narrow(tmp_path: Path) -> None:
    launch = Noisy({"n2-b64": 0.03})
    result, said = run(tmp_path, launch, until=0.02, max_repeats=60)
    speedup = result.cells[1].speedup
    assert speedup is not None
    assert relative_width(speedup) <= 0.02
    rounds = num_runs(result)["n2-b64"]
    assert 3 < rounds < 60
    assert num_runs(result) == {"n1-b64": rounds, "n2-b64": rounds}
    assert len(speedup.samples) == rounds  # every repeat has its baseline's of the same round
    assert f"The interval of n2-b64 is wider than 2%: round {rounds} of at most 60." in said
    assert result.problems == []
    # after one round less it was not narrow
    before = Path(tmp_path) / f"runs/n2-b64/r{rounds}/result.json"
    before.unlink()
    assert [problem.rule for problem in analyse(tmp_path).problems] == ["until-not-reached"]


def test_further_rounds_are_interleaved(tmp_path: Path) -> None:
    launch = Noisy({"n2-b64": 0.03})
    run(tmp_path, launch, until=0.001, max_repeats=5)
    assert launch.launched[6:] == ["n2-b64/r4", "n1-b64/r4", "n1-b64/r5", "n2-b64/r5"]


def test_cells_that_are_narrow_rest(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Noisy({"n4-b64": 0.03}), until=0.005, max_repeats=6, world_sizes=[1, 2, 4])
    assert num_runs(result) == {"n1-b64": 6, "n2-b64": 3, "n4-b64": 6}
    [problem] = result.problems
    assert problem.rule == "until-not-reached"
    assert "n4-b64" in problem.message
    assert "n2-b64" not in problem.message
    assert "6 repeats are the most that --max-repeats allows" in problem.message


def test_a_cell_that_is_refused_is_not_repeated_for_ever(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Noisy({"n2-b64": 0.05}, every_rank_all_data=True))
    assert num_runs(result) == {"n1-b64": 3, "n2-b64": 3}
    assert result.problems == []


def test_one_world_size_narrows_its_step_time(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Noisy({"n2-b64": 0.05}), until=0.01, max_repeats=5, world_sizes=[2])
    assert num_runs(result) == {"n2-b64": 5}


def test_weak_scaling_narrows_its_efficiency(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Noisy({"n2-b128": 0.05}), until=0.01, max_repeats=4, scaling="weak")
    assert num_runs(result) == {"n1-b64": 4, "n2-b128": 4}


def test_a_stopped_study_goes_on_where_it_would_have_gone(tmp_path: Path) -> None:
    noise = {"n2-b64": 0.03}
    whole = Noisy(noise)
    expected, _ = run(tmp_path / "whole", whole, until=0.02, max_repeats=8)
    with pytest.raises(StoppedError):
        run(tmp_path / "cut", Noisy(noise, {"n1-b64/r4": KeyboardInterrupt()}), until=0.02, max_repeats=8)
    assert [problem.rule for problem in analyse(tmp_path / "cut").problems] == ["until-not-reached"]
    assert "the same command goes on" in analyse(tmp_path / "cut").problems[0].message
    rest = Noisy(noise)
    result, _ = run(tmp_path / "cut", rest, until=0.02, max_repeats=8)
    assert rest.launched == whole.launched[whole.launched.index("n1-b64/r4") :]
    assert result.cells == expected.cells
    again = Noisy(noise)
    run(tmp_path / "cut", again, until=0.02, max_repeats=8)
    assert again.launched == []


def test_failing_runs_use_up_rounds_and_end(tmp_path: Path) -> None:
    trouble = {f"n2-b64/r{r}": RunError("rank 1 died") for r in range(4, 20)}
    result, _ = run(tmp_path, Noisy({"n2-b64": 0.05}, trouble), until=0.001, max_repeats=5)
    assert num_runs(result) == {"n1-b64": 5, "n2-b64": 3}
    assert [failure.run for failure in result.cells[1].failures] == ["runs/n2-b64/r4", "runs/n2-b64/r5"]


def test_a_continuation_may_not_drop_rounds(tmp_path: Path) -> None:
    run(tmp_path, Noisy({}))
    with pytest.raises(UserError, match="it also has --until 3% --max-repeats 10"):
        run(tmp_path, Noisy({}), until=None)
    run(tmp_path, Noisy({}), until=0.05, max_repeats=12)


def test_a_plan_without_until_reads_as_before(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    plan = read_plan(folder)
    assert (plan.until, plan.num_rounds) == (None, 3)
    assert [len(cell.runs) for cell in of_study(folder, plan)] == [3, 3]


@pytest.mark.parametrize(("text", "share"), [("3%", 0.03), (" 0.5 % ", 0.005), ("10%", 0.1)])
def test_shares_are_parsed(text: str, share: float) -> None:
    assert parse_share(text, "--until") == pytest.approx(share)


@pytest.mark.parametrize("text", ["3", "0.03", "0%", "100%", "-3%", "3 percent", "nan%", ""])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"type a percentage above 0 and below 100, with its sign: --until 3%"):
        parse_share(text, "--until")
