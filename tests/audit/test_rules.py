"""Each row rule is triggered by its fault and silent just beside it."""

from __future__ import annotations

from typing import Any

import pytest

from worldsize.audit.records import Finding, Row
from worldsize.audit.rules import ROW_RULES


def findings(**columns: Any) -> list[Finding]:
    return [finding for rule in ROW_RULES for finding in rule(Row(**columns))]


def only(**columns: Any) -> Finding:
    [finding] = findings(**columns)
    return finding


FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "out-of-lock-step": ({"per_rank_times_s": [10.0, 10.6]}, {"per_rank_times_s": [10.0, 10.4]}),
    "mean-over-ranks": (
        {"time_s": 10.2, "per_rank_times_s": [10.0, 10.4]},
        {"time_s": 10.4, "per_rank_times_s": [10.0, 10.4]},
    ),
    "communication-on-one-device": ({"devices": 1, "communication_s": 0.1}, {"devices": 1, "communication_s": 0}),
    "books-do-not-close": (
        {"devices": 2, "time_s": 10, "communication_s": 11},
        {"devices": 2, "time_s": 10, "communication_s": 9},
    ),
    "contradictory-rate": (
        {"time_s": 10, "samples": 1000, "samples_per_s": 110},
        {"time_s": 10, "samples": 1000, "samples_per_s": 103},
    ),
    "per-rank-throughput": (
        {"devices": 4, "time_s": 10, "tokens": 1000, "tokens_per_s": 25, "throughput_is": "total"},
        {"devices": 4, "time_s": 10, "tokens": 1000, "tokens_per_s": 25, "throughput_is": "per_rank"},
    ),
    "contradictory-counts": (
        {"devices": 4, "global_batch": 64, "per_device_batch": 64},
        {"devices": 4, "global_batch": 64, "per_device_batch": 16},
    ),
    "timer-misses-time": (
        {"time_s": 100, "steps": 100, "step_time_s": 0.2},
        {"time_s": 100, "steps": 100, "step_time_s": 0.9},
    ),
    "samples-miss-optimizer": (
        {"sampled_time_s": 0.05, "time_s": 100, "micro_steps": 500},
        {"sampled_time_s": 0.19, "time_s": 100, "micro_steps": 500},
    ),
    "warmup-never-left": ({"steps": 100, "warmup_steps": 100}, {"steps": 101, "warmup_steps": 100}),
    "missing-warmup": ({"step_times_s": [3, 1, 1, 1, 1, 1]}, {"step_times_s": [1.4, 1, 1, 1, 1, 1]}),
    "loss-does-not-fall": ({"first_loss": 5.0, "last_loss": 5.0}, {"first_loss": 5.0, "last_loss": 4.9}),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_the_fault_is_named_and_its_neighbour_is_not(rule: str) -> None:
    fault, sound = FAULTS[rule]
    assert only(**fault).rule == rule
    assert findings(**sound) == []


def test_a_row_without_columns_is_never_judged() -> None:
    assert findings() == []
    assert findings(devices=4, time_s=1.0) == []


@pytest.mark.parametrize("column", sorted(set(Row.model_fields) - {"where", "devices", "communication_s"}))
def test_no_rule_needs_a_column(column: str) -> None:
    """Rules ask only what is there: every row of one column passes without a finding."""
    values: dict[str, Any] = {
        "scaling": "weak",
        "throughput_is": "total",
        "per_rank_times_s": [1, 1],
        "step_times_s": [1] * 9,
    }
    words = ("series", "run", "model", "data", "precision", "optimizer", "schedule", "device", "strategy")
    assert findings(**{column: values.get(column, "word" if column in words else 7)}) == []


def test_a_rate_that_is_too_small_is_contradicted_too() -> None:
    assert "1,000 tokens in 10.00 s are 100.0 tokens/s" in only(time_s=10, tokens=1000, tokens_per_s=50).message


def test_a_total_presented_as_per_rank() -> None:
    row = {"devices": 4, "time_s": 10, "tokens": 1000, "tokens_per_s": 100, "throughput_is": "per_rank"}
    assert "it is the total" in only(**row).message


def test_samples_of_one_rank_are_counted_for_all() -> None:
    assert only(devices=2, samples=900, samples_per_rank=900).rule == "contradictory-counts"
    assert findings(devices=2, samples=1800, samples_per_rank=900) == []
    assert findings(devices=2, time_s=10, samples_per_rank=500, samples_per_s=100) == []


def test_a_dropped_last_batch_is_no_contradiction() -> None:
    assert findings(samples=1000, steps=15, global_batch=64) == []
    assert only(samples=1000, steps=31, global_batch=64).rule == "contradictory-counts"


def test_a_blind_stride_is_doubted_even_without_a_wall_time() -> None:
    finding = only(sampled_time_s=0.05, sampling_stride=50, accumulation=2)
    assert finding.severity == "doubts"
    assert "meets only 1 of 2 positions" in finding.message
    assert findings(sampled_time_s=0.05, sampling_stride=51, accumulation=2) == []


def test_steps_cannot_sum_to_more_than_the_time() -> None:
    assert "more than there is" in only(time_s=100, steps=100, step_time_s=1.1).message


def test_slow_steps_later_are_noise_and_no_warmup() -> None:
    assert findings(step_times_s=[1.6, 1, 1, 1, 1, 1.7, 1]) == []
    assert "the first 2 counted steps take up to 3.00 s" in only(step_times_s=[3, 2, 1, 1, 1, 1]).message
