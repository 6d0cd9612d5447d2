"""`worldsize study` from the outside, up to the first run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from worldsize.__main__ import main
from worldsize.cli.study import default_world_sizes
from worldsize.config.schema import Config, DeviceConfig


def test_dry_run_shows_the_grid_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(
        ["study", "--preset", "tiny", "--nproc", "1,2", "--global-batch", "8,16", "--repeats", "2", "--dry-run"]
    )
    shown = capsys.readouterr().out.splitlines()
    assert code == 0
    assert shown[0] == "4 cells × 2 repeats, strong scaling, into out/tiny:"
    assert shown[2] == "  n2-b8: world size 2, global batch 8, compared with n1-b8"
    assert shown[-1] == "round 2: n2-b8, n1-b16, n2-b16, n1-b8"
    assert list(tmp_path.iterdir()) == []


def test_the_grid_has_a_json_twin(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["study", "train.steps=9", "--nproc", "1", "--dry-run", "--json", "--vary", "model.num_layers=1,2"]) == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert plan["vary"] == {"model.num_layers": [1, 2]}
    assert plan["config"]["train"]["steps"] == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scaling", "stong"], "Did you mean 'strong'"),
        (["--nproc", "1,x"], "'x' is not a positive whole number"),
        (["--nproc", "3", "--global-batch", "64"], "n3-b64"),
        (["--vary", "model.num_layer=2"], "num_layers"),
        (["model.d_model=130", "--nproc", "1"], "d_model"),
        (["nothing.yaml"], "nothing.yaml"),
        (["--repeats", "0"], "repeats"),
    ],
)
def test_bad_input_is_answered_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_world_sizes_follow_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    on_cpu = DeviceConfig(kind="cpu")
    assert default_world_sizes(Config(device=on_cpu)) == [1, 2, 4]
    assert default_world_sizes(Config(device=on_cpu.model_copy(update={"threads_per_rank": 3}))) == [1, 2]


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--help"]) == 0
    assert "worldsize study --preset tiny --nproc 1,2" in capsys.readouterr().out


def test_the_dry_run_shows_up_to_how_many_repeats_there_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--preset", "tiny", "--nproc", "1,2", "--until", "3%", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("2 cells × 5 to 10 repeats")


def test_what_is_no_percentage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--preset", "tiny", "--nproc", "1,2", "--until", "0.03", "--dry-run"]) == 2
    assert "--until 3%" in capsys.readouterr().err
