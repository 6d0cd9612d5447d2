"""Comparisons: each rule with its fault, what is missing, and what stands."""

from __future__ import annotations

from typing import Any

import pytest

from worldsize.audit.judge import audit_rows
from worldsize.audit.records import Comparison, Row

SAME = {"samples": 10_000, "global_batch": 64}
"""Enough to tell that two rows did the same work."""


def compared(base: dict[str, Any], row: dict[str, Any]) -> list[Comparison]:
    rows = [Row(**{"devices": 1, "where": "base", **base}), Row(**{"devices": 4, "where": "row", **row})]
    return audit_rows(rows, "test")[0]


def one(base: dict[str, Any], row: dict[str, Any]) -> Comparison:
    [comparison] = compared(base, row)
    return comparison


def rules(comparison: Comparison) -> list[str]:
    return [finding.rule for finding in comparison.findings]


def test_the_same_work_stands() -> None:
    comparison = one({"time_s": 100, **SAME}, {"time_s": 30, **SAME})
    assert (comparison.status, comparison.findings, comparison.not_told) == ("stands", [], [])
    assert comparison.ratio == pytest.approx(100 / 30)


@pytest.mark.parametrize(
    ("rule", "theirs", "ours"),
    [
        ("different-model", {"model": "gpt2"}, {"model": "gpt2-medium"}),
        ("different-data", {"data": "a"}, {"data": "b"}),
        ("different-data", {"context_length": 512}, {"context_length": 1024}),
        ("different-precision", {"precision": "fp32"}, {"precision": "bf16"}),
        ("different-optimizer", {"learning_rate": 1e-3}, {"learning_rate": 4e-3}),
        ("different-optimizer", {"optimizer": "adamw"}, {"optimizer": "sgd"}),
        ("different-schedule", {"schedule": "cosine"}, {"schedule": "constant"}),
        ("different-devices", {"device": "A100"}, {"device": "H100"}),
        ("different-num-samples", {"samples": 10_000}, {"samples": 20_000}),
        ("different-tokens", {"samples": None, "tokens": 10_000}, {"samples": None, "tokens": 20_000}),
        ("different-batch", {"global_batch": 64}, {"global_batch": 256}),
        (
            "different-batch",
            {"global_batch": None, "per_device_batch": 16},
            {"global_batch": None, "per_device_batch": 16},
        ),
        ("different-steps", {"global_batch": None, "steps": 400}, {"global_batch": None, "steps": 100}),
        ("unequal-quality", {"validation_loss": 3.0}, {"validation_loss": 3.1}),
        ("unequal-quality", {"last_loss": 3.0}, {"last_loss": 3.1}),
        ("claimed-speedup", {}, {"claimed_speedup": 3.6}),
    ],
)
def test_what_is_not_the_same_does_not_stand(rule: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    comparison = one({"time_s": 100, **SAME, **theirs}, {"time_s": 30, **SAME, **ours})
    assert rules(comparison) == [rule]
    assert comparison.status == "does not stand"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"model": "GPT2"}, {"model": "gpt2"}),
        ({"model": "gpt2"}, {}),
        ({"strategy": "single"}, {"strategy": "ddp"}),
        ({"validation_loss": 3.00}, {"validation_loss": 3.02}),
        ({"samples": 10_000}, {"samples": 10_048}),
        ({}, {"claimed_speedup": 3.3}),
        ({"per_device_batch": 64}, {"per_device_batch": 16}),
    ],
)
def test_what_is_the_same_stands(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert one({"time_s": 100, **SAME, **theirs}, {"time_s": 30, **SAME, **ours}).status == "stands"


def test_a_better_loss_warns_and_a_worse_one_blocks() -> None:
    better = one({"time_s": 100, **SAME, "validation_loss": 3.0}, {"time_s": 30, **SAME, "validation_loss": 2.9})
    assert (rules(better), better.status) == (["unequal-quality"], "stands")


def test_an_unsharded_epoch_is_corrected_by_the_samples() -> None:
    comparison = one({"time_s": 100, **SAME, "samples": 9_000}, {"time_s": 110, **SAME, "samples": 36_000})
    assert rules(comparison) == ["every-rank-all-data"]
    assert comparison.corrections[0].value == pytest.approx(100 / 110 * 4)


def test_step_times_of_other_batches_are_corrected_by_the_batch() -> None:
    """Weak scaling that is not declared: 1.00x in step time, 4.00x in throughput."""
    comparison = one({"step_time_s": 1, "global_batch": 64}, {"step_time_s": 1, "global_batch": 256})
    assert rules(comparison) == ["different-batch"]
    assert comparison.corrections[0].text == "4.00x in throughput, not in time to equal quality"


@pytest.mark.parametrize(("time_s", "found"), [(23.7, ["super-linear"]), (23.9, [])])
def test_more_than_linear_beyond_five_percent(time_s: float, found: list[str]) -> None:
    """4 × 1.05 = 4.2x is 23.81 s."""
    assert rules(one({"time_s": 100, **SAME}, {"time_s": time_s, **SAME})) == found


def test_repeats_that_spread_allow_for_more() -> None:
    rows = [Row(devices=1, time_s=t, samples=1000, global_batch=8) for t in (90.0, 100.0, 110.0)]
    rows += [Row(devices=2, time_s=47.0, samples=1000, global_batch=8)]
    [comparison], _, _ = audit_rows(rows, "test")
    assert comparison.baseline_value == 100.0
    assert comparison.findings == []  # 2.13x, but the baseline spreads by 20 %


def test_times_without_work_cannot_be_told() -> None:
    comparison = one({"time_s": 100}, {"time_s": 30})
    assert comparison.status == "cannot be told"
    assert [missing.split(":")[0] for missing in comparison.not_told] == [
        "whether both did the same work",
        "whether they learned alike",
    ]


def test_weak_scaling_is_compared_by_rate() -> None:
    base = {"step_time_s": 1.0, "per_device_batch": 8, "scaling": "weak"}
    comparison = one(base, {**base, "step_time_s": 1.1})
    assert (comparison.quantity, comparison.status) == ("samples_per_s", "stands")
    assert comparison.ratio == pytest.approx(4 / 1.1)


def test_rates_need_to_say_whose_they_are() -> None:
    assert one({"tokens_per_s": 100}, {"tokens_per_s": 350}).status == "cannot be told"
    told = {"throughput_is": "total"}
    assert one({"tokens_per_s": 100, **told}, {"tokens_per_s": 350, **told}).status == "stands"
    each = {"throughput_is": "per_rank"}
    per_rank = one({"tokens_per_s": 100, **each}, {"tokens_per_s": 90, **each})
    assert (per_rank.status, per_rank.ratio) == ("stands", pytest.approx(3.6))


def test_a_rate_that_hardly_changes_is_doubted_until_it_is_said_what_it_is() -> None:
    comparison = one({"tokens_per_s": 100}, {"tokens_per_s": 87})
    assert (rules(comparison), comparison.status) == (["per-rank-throughput"], "cannot be told")
    assert rules(one({"tokens_per_s": 100}, {"tokens_per_s": 140})) == []


def test_times_settle_whose_a_rate_is() -> None:
    """On two devices 0.9x may be a bad total; a time of 1.8x says that it is per rank."""
    base, row = {"tokens_per_s": 100, "time_s": 100, **SAME}, {"tokens_per_s": 90, "time_s": 55.5, "devices": 2, **SAME}
    by_time, by_rate = compared(base, row)
    assert (by_time.status, rules(by_time)) == ("stands", [])
    assert rules(by_rate) == ["per-rank-throughput"]
    assert "the times say 1.80x" in by_rate.findings[0].message
    slow = compared(base, {**row, "time_s": 111.0})
    assert [rules(comparison) for comparison in slow] == [[], []]


def test_a_wrong_rate_does_not_spoil_the_times() -> None:
    base = {"time_s": 100, "tokens": 10_000, "tokens_per_s": 100, "global_batch": 64, "throughput_is": "total"}
    by_time, by_rate = compared(base, {**base, "time_s": 30, "tokens_per_s": 900})
    assert (by_time.status, rules(by_time)) == ("stands", [])
    assert (by_rate.status, rules(by_rate)) == ("does not stand", ["contradictory-rate", "super-linear"])


def test_the_nearest_baseline_is_chosen_within_a_series() -> None:
    rows = [Row(devices=d, time_s=100 / d, precision=p, **SAME) for p in ("fp32", "bf16") for d in (1, 2)]
    comparisons, _, _ = audit_rows(rows, "test")
    assert [(c.status, c.findings) for c in comparisons] == [("stands", [])] * 2
    apart = [Row(series=s, devices=d, time_s=100 / d, **SAME) for s, d in (("a", 1), ("b", 2))]
    assert audit_rows(apart, "test")[0] == []


def test_rows_without_a_partner_are_noted() -> None:
    _, _, notes = audit_rows([Row(where="line 2", time_s=3.0), Row(where="line 3", devices=1, time_s=3.0)], "test")
    assert notes == ["compared with nothing, because devices is not given: line 2"]
    _, _, notes = audit_rows(
        [Row(where="x", devices=1, time_s=3.0), Row(where="y", devices=2, tokens_per_s=3.0)], "test"
    )
    assert notes == ["y and x share no time and no rate: nothing to divide"]
