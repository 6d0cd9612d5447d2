"""--try-remedies with a launcher that writes synthetic runs whose gains a test knows."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.study.synthetic import make_run
from tests.study.synthetic_work import phases_of
from worldsize.config.load import load
from worldsize.study.grid import cells_of, load_cells
from worldsize.study.live import Display
from worldsize.study.records import RemedyTrial, StudyResult
from worldsize.study.remedies import seconds_per_token
from worldsize.study.results import analyse, read_run
from worldsize.study.runner import base_plan, run_study

OVERRIDES = [
    "train.steps=40", "train.global_batch=64", "device.kind=cpu", "data.max_bytes=100000", "measure.warmup_steps=4",
]  # fmt: skip
EXPOSED_S = {"none": 0.4, "bf16": 0.2, "int4": 0.05, "powersgd": 0.02}


@pytest.fixture(autouse=True)
def report(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("worldsize.report.html")
    module.render = lambda result, folder: "<html>"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "worldsize.report.html", module)
    # Remedies that exchange gradients; the launcher below has no cost model of local steps.
    monkeypatch.setattr("worldsize.scaling.remedies._local_sgd", lambda config, world_size: [])


class Launcher:
    """The cost model of synthetic runs with an exchange that depends on its compression; a loss for each."""

    def __init__(self, exposed_s: dict[str, float]) -> None:
        self.exposed_s = exposed_s
        self.launched: list[str] = []

    def __call__(
        self, loaded: Any, *, world_size: int, out: Path, command: Any, on_progress: Any, resume: bool
    ) -> bool:
        self.launched.append(f"{out.parent.name}/{out.name}")
        config = loaded.config
        kind = config.parallel.gradient_compression
        batch = config.train.global_batch
        steps = config.train.steps
        last = {"none": 2.0, "bf16": 2.001, "int4": 2.002, "powersgd": 2.05}[kind]
        make_run(
            out, world_size=world_size, global_batch=batch, num_steps=steps, num_warmup_steps=4, noise=0.0,
            phases=phases_of(world_size, batch, exposed_s=self.exposed_s[kind]), losses=[3.0] * (steps - 1) + [last],
            config={
                "parallel.gradient_compression": kind, "train.micro_batch": config.train.micro_batch,
                "optimizer.learning_rate": config.optimizer.learning_rate,
                "optimizer.warmup_steps": config.optimizer.warmup_steps,
                "data.max_bytes": 100_000,
                "measure.warmup_steps": 4,
            },
        )  # fmt: skip
        return True


def run(out: Path, launcher: Launcher, *, repeats: int = 3, tries: bool = True) -> tuple[StudyResult, str]:
    plan = base_plan(
        load(None, OVERRIDES).config, world_sizes=[1, 2], global_batches=[64], vary={}, scaling="strong",
        repeats=repeats, command=["worldsize", "study"], try_remedies=tries,
    )  # fmt: skip
    cells = cells_of(plan)
    said = io.StringIO()
    result = run_study(
        plan, cells, load_cells(cells, None, OVERRIDES), out, display=Display(Console(file=said, width=200)),
        launch=launcher, load=lambda more: load(None, [*OVERRIDES, *more]),
    )  # fmt: skip
    return result, said.getvalue()


def by_name(result: StudyResult) -> dict[str, RemedyTrial]:
    return {trial.remedy: trial for trial in result.remedies}


def test_each_remedy_is_judged_at_equal_tokens(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Launcher(EXPOSED_S))
    trials = by_name(result)
    assert {"as-it-is", "bf16-gradients", "int4-gradients", "powersgd", "accumulation", "larger-batch"} <= set(trials)
    # one device 105 ms; two 55 ms and the exchange; four times the batch: 4 x 50 + 5 + 400 for four times the samples
    expected = {
        "as-it-is": 105 / 455, "bf16-gradients": 105 / 255, "powersgd": 105 / 75, "accumulation": 420 / 605,
    }  # fmt: skip
    for name, gain in expected.items():
        speedup = trials[name].speedup
        assert speedup is not None
        assert speedup.median == pytest.approx(gain, rel=1e-6)
    assert [trials[name].changes_arithmetic for name in expected] == [False, True, True, True]
    assert [trials[name].turned_positive for name in expected] == [False, False, True, False]
    assert trials["powersgd"].loss_change == pytest.approx(2.15 / 2.1 - 1)
    assert trials["as-it-is"].loss_change == 0.0
    assert len({trial.num_tokens for trial in trials.values()}) == 1
    assert (trials["accumulation"].global_batch, trials["accumulation"].num_steps) == (256, 10)


def test_what_was_tried_is_said_best_first_with_its_loss(tmp_path: Path) -> None:
    said = [line for line in run(tmp_path, Launcher(EXPOSED_S))[0].verdict.next if line.startswith("Tried")]
    assert said[0] == (
        "Tried for n2-b64 (0.23x (0.23-0.23) as it is): PowerSGD of rank 4: gradients as low-rank factors: 1.40x "
        "(1.40-1.40) for the same tokens, which turns it positive; changes the arithmetic; held-out loss 2.1500 "
        "against 2.1000 (+2.38 %, more than 1 % worse)."
    )
    assert "gradients rounded to bf16" in said[-1]
    assert "does not turn it positive" in said[-1]


def test_rounds_are_interleaved_and_hold_the_baseline_as_it_is(tmp_path: Path) -> None:
    launcher = Launcher(EXPOSED_S)
    run(tmp_path, launcher)
    rounds = [name for name in launcher.launched if "+" in name]
    first = [name for name in rounds if name.endswith("/r1")]
    second = [name for name in rounds if name.endswith("/r2")]
    assert {"n1-b64+as-it-is/r1", "n2-b64+as-it-is/r1", "n2-b64+powersgd/r1"} <= set(first)
    assert rounds[: len(first)] == first
    assert [name[:-1] for name in second] == [name[:-1] for name in first[1:] + first[:1]]


def test_a_second_call_runs_nothing_and_tells_the_same(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Launcher(EXPOSED_S))
    again = Launcher(EXPOSED_S)
    repeated, _ = run(tmp_path, again)
    assert again.launched == []
    assert repeated.remedies == result.remedies == analyse(tmp_path).remedies


def test_remedies_can_be_asked_for_later_and_are_kept_without_asking(tmp_path: Path) -> None:
    first, _ = run(tmp_path, Launcher(EXPOSED_S), tries=False)
    assert first.remedies == []
    run(tmp_path, Launcher(EXPOSED_S))
    kept, _ = run(tmp_path, Launcher(EXPOSED_S), tries=False)
    assert len(kept.remedies) >= 5


def test_a_study_that_gains_tries_nothing(tmp_path: Path) -> None:
    launcher = Launcher({"none": 0.006})
    result, said = run(tmp_path, launcher)
    assert result.remedies == []
    assert not any("+" in name for name in launcher.launched)
    assert "No cell is slower than its baseline: nothing to remedy." in said


def test_seconds_a_token_are_of_all_timed_steps_not_of_the_median_one(tmp_path: Path) -> None:
    run_folder = make_run(tmp_path, world_size=2, noise=0.0, phases=phases_of(2, 64), num_steps=25)
    rows = (run_folder / "steps.rank1.jsonl").read_text().splitlines()
    slow = rows[-1].replace('"wall_s":0.061', '"wall_s":2.061')
    assert slow != rows[-1]
    (run_folder / "steps.rank1.jsonl").write_text("\n".join([*rows[:-1], slow]) + "\n")
    expected_s = (0.061 * 19 + 2.061) / 20
    assert seconds_per_token(read_run(run_folder)) == pytest.approx(expected_s / (64 * 128), rel=1e-6)
