"""`worldsize launch` as typed, on fake programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch.fakes import Programs
from worldsize.cli import run_command
from worldsize.errors import UserError

TYPED = ["launch", "--preset", "tiny", "--repeats", "1"]


def test_a_dry_run_shows_each_job_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        *TYPED,
        "--nodes",
        "1,2",
        "--gpus-per-node",
        "4",
        "--time",
        "90",
        "--price-per-device-hour",
        "2",
        "--dry-run",
    ]
    assert run_command(words) == 0
    shown = capsys.readouterr().out
    assert "---------- n4\n#!/bin/bash" in shown
    assert "---------- n8\n#!/bin/bash" in shown
    assert "#SBATCH --time=90\n" in shown
    assert "n8: 1 runs × 5400 s × 8 devices × 2 an hour = 24.00" in shown
    assert run_command([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["files"]) == ["n4", "n8"]
    assert report["files"]["n4"] in shown
    assert report["costs"]["cost"] == pytest.approx(36.0)
    assert list(tmp_path.iterdir()) == []


def test_leaving_submits_and_the_same_command_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = Programs(tmp_path / "bin", monkeypatch)
    programs.answer("sbatch", "12\n")
    programs.answer("squeue", "12|TIMEOUT|gpu1|None\n")
    words = [*TYPED, "--out", str(tmp_path / "s"), "--nodes", "1"]
    assert run_command([*words, "--leave"]) == 0
    assert not programs.calls("squeue")
    assert not (tmp_path / "s/results.json").exists()
    with pytest.raises(UserError, match=r"1 of 1 jobs failed:\n  n1: Slurm job 12 \(TIMEOUT\): on gpu1"):
        run_command(words)
    assert len(programs.calls("sbatch")) == 1
    with pytest.raises(UserError):
        run_command([*words, "--resubmit"])
    assert len(programs.calls("sbatch")) == 2
    capsys.readouterr()


def test_gpus_that_were_asked_for_are_never_replaced_by_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Programs(tmp_path / "bin", monkeypatch).answer("sbatch", "12\n")
    run_command([*TYPED, "--out", str(tmp_path / "s"), "--gpus-per-node", "2", "--leave"])
    assert "kind: cuda" in (tmp_path / "s/jobs/n2-b8.yaml").read_text()


def test_what_costs_money_is_not_started_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(tmp_path / "bin", monkeypatch)
    programs.answer("sky")
    words = [*TYPED, "--out", str(tmp_path / "s"), "--on", "sky", "--gpu", "H100", "--gpus-per-node", "1"]
    with pytest.raises(UserError, match="--price-per-device-hour PRICE"):
        run_command(words)
    with pytest.raises(UserError, match="--yes"):
        run_command([*words, "--price-per-device-hour", "3", "--expected-run-s", "60"])
    assert not programs.calls("sky")
    run_command([*words, "--price-per-device-hour", "3", "--expected-run-s", "60", "--yes", "--leave"])
    assert len(programs.calls("sky")) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--on", "slrum"], "unknown engine 'slrum'. Did you mean 'slurm'?"),
        (["--nodes", "1,two"], "--nodes '1,two': 'two' is not a positive whole number"),
        (["--nodes", "1,2", "--gpus-per-node", "1,2"], "both are world size 2"),
        (["--gpus-per-node", "2", "--ranks-per-node", "2"], "Give one."),
        (["--time", "an hour"], "launch.time is 'an hour'"),
        (["--partition", "a b"], "It takes one word without quotes."),
        (["--nodes", "3"], "3"),
    ],
)
def test_bad_words_are_refused(words: list[str], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        run_command([*TYPED, "--out", str(tmp_path / "s"), *words, "--dry-run"])
    assert complaint in str(refused.value)
