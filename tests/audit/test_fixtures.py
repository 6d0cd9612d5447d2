"""Published numbers, each with its fault named and the figures that belong to it; clean numbers raise nothing."""

from __future__ import annotations

import pytest

from tests.audit.published import EXAMPLES, audited, clean_rows, named, would_be
from worldsize.audit.judge import audit_rows
from worldsize.audit.lost_time import lost_time
from worldsize.audit.pairs import pairs_of
from worldsize.audit.paths import audit_paths
from worldsize.audit.records import Row
from worldsize.audit.render import text


def test_a_ranks_in_lock_step_cannot_differ() -> None:
    finding = named(audited("a"))["out-of-lock-step"]
    assert finding.figures == pytest.approx({"slowest_s": 1384.64, "fastest_s": 806.75, "mean_s": 1095.695})
    assert "rank 0 shows 1384.64 s and rank 1 806.75 s (72 % apart)" in finding.message
    assert "A mean over ranks (1095.70 s) is not accepted" in finding.message
    assert finding.severity == "blocks"


def test_b_each_rank_consumed_all_the_data() -> None:
    first, second = audited("b").comparisons
    assert [finding.rule for finding in first.findings] == ["every-rank-all-data"]
    assert "each of 4 ranks consumed all 120,000 samples: 480,000 samples in all" in first.findings[0].message
    assert (first.status, would_be(first)) == ("does not stand", ["3.20x by samples processed"])
    assert first.corrections[0].value == pytest.approx(4 * 99.94 / 124.95)
    assert (second.status, would_be(second)) == ("does not stand", ["1.85x by samples processed"])
    assert (round(first.ratio, 2), round(second.ratio, 2)) == (0.80, 0.46)


def test_c_larger_batches_in_fewer_steps() -> None:
    audit = audited("c")
    [comparison] = audit.comparisons
    rules = {finding.rule: finding.message for finding in comparison.findings}
    assert rules.keys() == {"different-steps", "unequal-quality", "warmup-never-left"}
    assert "3,561 → 890 optimizer steps" in rules["different-steps"]
    assert "validation loss 5.634 → 6.181: 3.47x is not the gain in time to equal quality" in rules["unequal-quality"]
    assert "warm-up was never left (1,000 warm-up steps, 890 steps)" in rules["warmup-never-left"]
    assert comparison.status == "does not stand"
    assert would_be(comparison)[0].startswith("3.47x in throughput, not in time to equal quality")


def test_d_one_device_does_not_communicate() -> None:
    finding = named(audited("d"))["communication-on-one-device"]
    assert "one device reports 50.93 s of communication. That is not communication" in finding.message


def test_e_a_rate_that_contradicts_its_own_row() -> None:
    finding = named(audited("e"))["contradictory-rate"]
    assert finding.figures["computed"] == pytest.approx(640_000 / 49.09)
    assert finding.message.startswith("82,515 tokens/s contradicts its own row: 640,000 tokens in 49.09 s are 13,037")


def test_f_more_than_linear() -> None:
    two, four = audited("f").comparisons
    assert (round(two.ratio, 2), round(four.ratio, 2)) == (2.21, 4.25)
    for comparison in (two, four):
        assert comparison.status == "cannot be told"
        assert "is more than linear. Check that the baseline ran as fast as it can" in comparison.findings[0].message


def test_g_communication_is_a_small_part_of_what_is_lost() -> None:
    two, four = audited("g").comparisons
    assert two.lost_time is None
    lost = four.lost_time
    assert lost is not None
    assert lost.ideal_s == pytest.approx(558.375)
    assert lost.lost_s == pytest.approx(266.115)
    assert round(100 * lost.communication_share) == 16
    assert lost.compute_excess_share is None
    assert round(100 * lost.rest_share) == 84
    assert "communication (41.38 s) is 16 % of that. The other 84 % (224.74 s) is not communication" in lost.message


def test_g_with_compute_reported_the_excess_is_told_apart() -> None:
    """Compute of 776.60 s on 4 devices leaves 6.51 s (2 %) that belong to neither."""
    rows = [Row(devices=1, time_s=2233.50, compute_s=2233.50)]
    rows += [Row(devices=4, time_s=824.49, communication_s=41.38, compute_s=776.60)]
    lost = lost_time(pairs_of(rows)[0][0])
    assert lost is not None
    assert lost.compute_excess_s == pytest.approx(776.60 - 2233.50 / 4)
    assert [round(100 * share) for share in (lost.communication_share, lost.compute_excess_share or 0)] == [16, 82]
    assert lost.communication_s + (lost.compute_excess_s or 0) + lost.rest_s == pytest.approx(lost.lost_s)


def test_h_samples_that_never_contain_an_optimizer_step() -> None:
    finding = named(audited("h"))["samples-miss-optimizer"]
    assert "sampled micro steps take 52.0 ms, but the wall time is 273.0 ms per micro step" in finding.message
    assert "the samples never contain an optimizer step" in finding.message
    assert [correction.value for correction in finding.corrections] == [pytest.approx(0.546)]


def test_i_a_rate_per_rank_presented_as_total() -> None:
    [comparison] = audited("i").comparisons
    assert [finding.rule for finding in comparison.findings] == ["per-rank-throughput"]
    assert comparison.status == "does not stand"
    assert would_be(comparison) == ["44,854 tokens/s in total", "3.47x in throughput"]
    assert comparison.corrections[0].value == pytest.approx(4 * 11_213.5)


@pytest.mark.parametrize("letter", list("abcdefghi"))
def test_every_example_names_something(letter: str) -> None:
    audit = audited(letter)
    assert named(audit) or any(comparison.lost_time for comparison in audit.comparisons)
    assert not any(comparison.status == "stands" for comparison in audit.comparisons)
    assert max(map(len, text(audit).splitlines())) <= 100


def test_a_mean_over_ranks_makes_a_speedup_that_the_slowest_rank_does_not_give() -> None:
    rows = [Row(devices=1, time_s=2233.50), Row(devices=2, time_s=1095.70, per_rank_times_s=[1384.64, 806.75])]
    [comparison], findings, _ = audit_rows(rows, "two fixtures")
    assert {finding.rule for finding in findings} == {"out-of-lock-step", "mean-over-ranks"}
    assert comparison.status == "does not stand"
    assert comparison.ratio == pytest.approx(2.0384, abs=1e-4)
    assert would_be(comparison)[0] == "1.61x by the slowest rank's clock"


def test_the_clean_example_stands() -> None:
    audit = audit_paths([str(EXAMPLES / "clean.csv")])
    assert audit.findings == []
    assert {comparison.status for comparison in audit.comparisons} == {"stands"}
    assert audit.headline == "All 4 comparisons stand."


@pytest.mark.parametrize("seed", range(20))
def test_clean_numbers_raise_nothing(seed: int) -> None:
    rows = clean_rows(seed)
    comparisons, findings, _ = audit_rows(rows, "clean")
    assert [finding for comparison in comparisons for finding in comparison.findings] + findings == []
    assert len(comparisons) >= len({row.devices for row in rows}) - 1
    if seed % 3 == 0:  # every column is there
        assert {comparison.status for comparison in comparisons} == {"stands"}
