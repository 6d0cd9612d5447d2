"""The peers' benchmark: ratios within a round, shares of memory's speed, and goals, by figures worked out by hand."""

from __future__ import annotations

import pytest
from benchmarks.inference_contender import MEMORY
from benchmarks.inference_speed import (
    DECODE_1,
    DECODE_16,
    LLAMA,
    PREFILL,
    TASKS,
    TRANSFORMERS,
    Goal,
    absent,
    figures,
    judge,
    text,
)

KNOWN = {
    MEMORY: {"read_bytes": 1000, "kernel": False},
    "worldsize int8": {"read_bytes": 100, "kernel": True},
    "worldsize int4": {"read_bytes": 60, "kernel": True},
    "worldsize int8 alone": {"read_bytes": 100, "kernel": False},
    TRANSFORMERS: {"read_bytes": 400, "kernel": False},
    LLAMA: {"read_bytes": 110, "kernel": False},
}
SECONDS = {
    MEMORY: [1.0, 2.0],
    "worldsize int8": [1.0, 2.0],
    "worldsize int4": [0.5, 1.0],  # the fastest, but of fewer bits than its peers
    "worldsize int8 alone": [4.0, 8.0],
    TRANSFORMERS: [8.0, 16.0],
    LLAMA: [2.0, 4.0],
}
"""The second round was twice as slow for all: ratios do not see that."""


def found() -> dict[str, object]:
    return figures("gpt2", dict.fromkeys(TASKS, SECONDS), KNOWN, {"llama.cpp Q4_0": "no memory"})


def test_ratios_are_of_the_same_round() -> None:
    rows = {(row["task"], row["contender"]): row for row in found()["rows"]}  # type: ignore[attr-defined]
    row = rows[DECODE_1, "worldsize int8"]
    assert row["times_peer"][TRANSFORMERS]["samples"] == [8.0, 8.0]
    assert row["times_peer"][LLAMA]["samples"] == [2.0, 2.0]
    num_rows, num_tokens = TASKS[DECODE_1][1:]
    assert row["tokens_per_s"]["samples"] == [num_rows * num_tokens, num_rows * num_tokens / 2]
    assert row["read_bytes_per_s"]["samples"] == [100 * num_tokens, 50 * num_tokens]
    assert row["share_of_bandwidth"]["samples"] == pytest.approx([num_tokens / 10, num_tokens / 10])
    assert "share_of_bandwidth" not in rows[PREFILL, TRANSFORMERS]


@pytest.mark.parametrize(
    ("goal", "best", "met"),
    [
        (Goal(DECODE_1, LLAMA, 1.3, with_kernel=True), "worldsize int8", True),
        (Goal(DECODE_1, LLAMA, 0.8, with_kernel=False), "worldsize int8 alone", False),
        (Goal(DECODE_16, LLAMA, 2.0, with_kernel=True), "worldsize int8", True),
        (Goal(DECODE_16, LLAMA, 2.1, with_kernel=True), "worldsize int8", False),
    ],
)
def test_goals(goal: Goal, best: str, met: bool) -> None:
    verdict = judge(goal, found()["rows"])  # type: ignore[arg-type]
    assert verdict is not None
    assert (verdict["best"], verdict["met"]) == (best, met)


def test_a_goal_against_an_absent_peer_is_not_judged() -> None:
    assert judge(Goal(DECODE_16, "ONNX Runtime int8", 0.9, with_kernel=True), found()["rows"]) is None  # type: ignore[arg-type]


def test_the_table_says_met_not_met_and_what_failed() -> None:
    said = text(found())
    assert "worldsize int8 2.00 × llama.cpp Q8_0 [2.00, 2.00]   goal 1.3: met" in said
    assert "goal 0.8: NOT MET" in said
    assert "llama.cpp Q4_0 did not start: no memory" in said


def test_absent_peers_are_told_with_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ctranslate2" else object())
    assert absent() == {"CTranslate2 int8": "pip install ctranslate2"}
