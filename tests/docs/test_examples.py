"""Every example is a config that its own command can run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from worldsize.cli import run_command
from worldsize.config.cautions import cautions
from worldsize.config.load import load
from worldsize.config.rules import check
from worldsize.study.grid import cells_of, load_cells, parse_counts, parse_vary
from worldsize.study.runner import base_plan

examples = sorted((ROOT / "examples").glob("*.yaml"))


def typed(example: Path) -> list[str]:
    """Return the words of the command in the comment on top."""
    found = re.search(r"^# Type: (.+)$", example.read_text("utf-8"), re.MULTILINE)
    assert found, f"{example.name} does not say what to type"
    return shlex.split(found[1])


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def test_there_are_examples() -> None:
    assert len(examples) >= 6


@pytest.mark.parametrize("example", examples, ids=lambda path: path.stem)
def test_it_says_who_it_is_for_what_to_type_and_how_long_it_takes(example: Path) -> None:
    top = example.read_text("utf-8").splitlines()
    assert top[0].startswith("# For: ")
    assert any(line.startswith("# Time: ") for line in top)
    assert f"examples/{example.name}" in typed(example)


@pytest.mark.parametrize("example", examples, ids=lambda path: path.stem)
def test_its_command_passes_every_rule(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = typed(example)
    overrides = [word for word in words[3:] if "=" in word and word.split("=")[0].split(".")[0] == "data"]
    nproc = parse_counts(option(words, "--nproc") or "1", "--nproc")
    loaded = load(example, overrides)
    assert cautions(loaded.config) == []
    if words[1] == "launch":
        assert run_command([*words[1:], "--out", str(tmp_path / "study")]) == 0
        return
    if words[1] == "train":
        check(loaded.config, nproc[0])
        return
    batches = option(words, "--global-batch")
    varied = option(words, "--vary")
    plan = base_plan(
        loaded.config,
        world_sizes=nproc,
        global_batches=parse_counts(batches, "--global-batch") if batches else None,
        vary=parse_vary([varied] if varied else []),
        scaling="weak" if option(words, "--scaling") == "weak" else "strong",
        repeats=3,
        command=words,
    )
    load_cells(cells_of(plan), example, overrides)
