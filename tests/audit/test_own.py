"""Audits of our own runs: each injected fault is named; 20 clean studies raise nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.audit.published import named, would_be
from tests.study.synthetic import make_run, make_study
from worldsize.audit.paths import audit_paths
from worldsize.audit.records import Audit
from worldsize.errors import UserError


def study(folder: Path, **faults: Any) -> Audit:
    """Audit a study of 1 and 2 devices whose runs on 2 have these faults."""
    return audit_paths([str(make_study(folder, faults={"n2-b64": faults}))])


def test_a_sound_study_stands(tmp_path: Path) -> None:
    [comparison] = study(tmp_path).comparisons
    assert (comparison.name, comparison.status, comparison.findings) == ("1 → 2 devices", "stands", [])
    assert comparison.ratio == pytest.approx(comparison.baseline_value / comparison.value)
    assert 1.7 < comparison.ratio < 1.8


def test_a_sampler_that_repeats_data(tmp_path: Path) -> None:
    audit = study(tmp_path, every_rank_all_data=True)
    [comparison] = audit.comparisons
    assert comparison.status == "does not stand"
    assert "each rank consumed all 64 samples of a step" in named(audit)["every-rank-all-data"].message
    assert would_be(comparison) == [f"{2 * comparison.ratio:.2f}x by tokens processed"]


def test_different_seeds_per_rank(tmp_path: Path) -> None:
    audit = study(tmp_path, ranks_seeded_differently=True)
    assert {"ranks-start-apart", "samples-not-prescribed"} <= named(audit).keys()
    assert (audit.comparisons[0].status, audit.comparisons[0].corrections) == ("does not stand", [])


def test_a_slowed_rank_stands_with_a_warning(tmp_path: Path) -> None:
    audit = study(tmp_path, slow_rank=1)
    assert named(audit).keys() == {"slow-rank"}
    assert audit.comparisons[0].status == "stands"


def test_a_changed_global_batch(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "one", world_size=1), make_run(tmp_path / "two", world_size=2, global_batch=128)]
    runs += [make_run(tmp_path / "same", world_size=2)]
    audit = audit_paths([str(folder) for folder in runs])
    assert len(audit.comparisons) == 2
    changed = next(comparison for comparison in audit.comparisons if "b128" in comparison.compared)
    assert changed.status == "does not stand"
    assert "the global batch is 128, the baseline's is 64" in " ".join(finding.message for finding in changed.findings)
    assert would_be(changed) == [f"{2 * changed.ratio:.2f}x by tokens processed, not in time to equal quality"]


def test_a_timer_around_the_wrong_thing(tmp_path: Path) -> None:
    """Communication on one device is booked by a timer that times something else."""
    phases = {"data_wait_s": 0.0, "host_to_device_s": 0.0, "compute_s": 0.09, "exposed_communication_s": 0.012,
              "bubble_s": 0.0, "optimizer_s": 0.004, "other_s": 0.0005}  # fmt: skip
    audit = audit_paths([str(make_study(tmp_path, faults={"n1-b64": {"phases": phases}}))])
    assert named(audit).keys() == {"communication-on-one-device"}
    assert "one device reports 12." in named(audit)["communication-on-one-device"].message


def test_a_missing_warmup(tmp_path: Path) -> None:
    audit = study(tmp_path, num_warmup_steps=0, config={"measure.warmup_steps": 0})
    assert "the first counted step takes" in named(audit)["missing-warmup"].message


def test_few_repeats_cannot_be_told(tmp_path: Path) -> None:
    audit = audit_paths([str(make_study(tmp_path, repeats=1))])
    assert [comparison.status for comparison in audit.comparisons] == ["cannot be told"]


def test_weak_scaling_is_told_by_rate(tmp_path: Path) -> None:
    [comparison] = audit_paths([str(make_study(tmp_path, scaling="weak"))]).comparisons
    assert (comparison.quantity, comparison.status) == ("tokens_per_s", "stands")
    assert 1.8 < comparison.ratio < 2.0


@pytest.mark.parametrize("seed", range(20))
def test_clean_studies_raise_nothing(tmp_path: Path, seed: int) -> None:
    folder = make_study(
        tmp_path,
        world_sizes=((1, 2), (1, 2, 4), (2, 4))[seed % 3],
        global_batches=((64,), (64, 128))[seed % 2],
        scaling=("strong", "weak")[seed // 2 % 2],
        noise=(0.002, 0.005, 0.01)[seed % 3],
        repeats=3 + seed % 2,
        seed=seed,
    )
    audit = audit_paths([str(folder)])
    assert named(audit) == {}
    assert {comparison.status for comparison in audit.comparisons} == {"stands"}


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    (folder / "runs/n2-b64/r1/result.json").write_text("{")
    with pytest.raises(UserError, match=r"n2-b64/r1/result\.json"):
        audit_paths([str(folder)])
