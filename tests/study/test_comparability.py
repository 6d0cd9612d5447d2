"""The same-work gate, one difference at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.study.synthetic import make_run
from tests.study.synthetic_work import losses_of
from worldsize.study.comparability import compare
from worldsize.study.results import read_run


def rules_between(
    folder: Path, ours: dict[str, Any], theirs: dict[str, Any] | None = None, scaling: Any = "strong"
) -> set[str]:
    reference = read_run(make_run(folder / "baseline", **(theirs or {})))
    run = read_run(make_run(folder / "run", **{"world_size": 2, **ours}))
    return {problem.rule for problem in compare([run], reference, scaling)}


def test_the_same_work_passes(tmp_path: Path) -> None:
    assert rules_between(tmp_path, {}) == set()


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("model.num_layers", 5, "different-model"),
        ("model.dropout", 0.1, "different-model"),
        ("data.source", "other.txt", "different-data"),
        ("data.tokenizer", "bpe:512", "different-data"),
        ("train.precision", "bf16", "different-precision"),
        ("train.compile", True, "different-program"),
        ("train.grad_clip_norm", None, "different-optimizer"),
        ("optimizer.learning_rate", 2e-3, "different-optimizer"),
        ("optimizer.beta2", 0.99, "different-optimizer"),
        ("optimizer.warmup_steps", 5, "different-schedule"),
        ("optimizer.schedule", "constant", "different-schedule"),
        ("train.steps", 30, "different-steps"),
        ("device.threads_per_rank", 2, "different-cores"),
    ],
)
def test_each_setting_that_changes_the_work_is_named(tmp_path: Path, key: str, value: Any, rule: str) -> None:
    assert rules_between(tmp_path, {"config": {key: value}}) == {rule}


@pytest.mark.parametrize(
    "config",
    [{"track.tensorboard": True}, {"data.cache_dir": "/tmp/x"}, {"measure.trace_steps": 0}, {"train.micro_batch": 8}],
)
def test_settings_that_change_no_work_pass(tmp_path: Path, config: dict[str, Any]) -> None:
    assert rules_between(tmp_path, {"config": config}) == set()


@pytest.mark.parametrize(
    ("environment", "rule"),
    [
        ({"torch": "2.12.0"}, "different-torch"),
        ({"code_version": "f" * 32}, "different-code"),
        ({"device_names": ["Other CPU"] * 2}, "different-devices"),
        ({"hostname": "elsewhere"}, "different-host"),
    ],
)
def test_each_difference_of_the_environment_is_named(tmp_path: Path, environment: dict[str, Any], rule: str) -> None:
    assert rules_between(tmp_path, {"environment": environment}) == {rule}


def test_another_text_under_the_same_path_is_named(tmp_path: Path) -> None:
    reference, run = (read_run(make_run(tmp_path / name)) for name in ("baseline", "run"))
    texts = ["a" * 32, "b" * 32]
    ours, theirs = (
        replace(each, record=each.record.model_copy(update={"tokens_digest": text}))
        for each, text in zip((run, reference), texts, strict=True)
    )
    [problem] = compare([ours], theirs, "strong")
    assert (problem.rule, problem.severity) == ("different-text", "blocks")
    assert compare([ours], ours, "strong") == []


def test_an_unknown_torch_version_is_no_difference(tmp_path: Path) -> None:
    assert rules_between(tmp_path, {"environment": {"torch": None}}) == set()


def test_another_batch_is_other_work(tmp_path: Path) -> None:
    found = rules_between(tmp_path, {"global_batch": 128})
    assert {"different-batch", "different-num-samples", "different-tokens", "different-samples"} <= found


def test_another_seed_is_other_work(tmp_path: Path) -> None:
    found = rules_between(tmp_path, {"seed": 1})
    assert found == {"different-seed", "different-samples", "different-start", "different-loss"}


def test_weak_scaling_compares_per_device_batches(tmp_path: Path) -> None:
    assert rules_between(tmp_path / "a", {"global_batch": 128}, scaling="weak") == set()
    assert rules_between(tmp_path / "b", {"global_batch": 64}, scaling="weak") == {"different-batch"}


@pytest.mark.parametrize(
    ("precision", "gap", "passes"),
    [("fp32", 5e-5, True), ("fp32", 2e-4, False), ("tf32", 1e-3, True), ("tf32", 4e-3, False),
     ("bf16", 5e-3, True), ("bf16", 2e-2, False), ("fp16", 1e-3, True), ("fp16", 4e-3, False)],
)  # fmt: skip
def test_losses_agree_within_the_precision(tmp_path: Path, precision: str, gap: float, passes: bool) -> None:
    config = {"train.precision": precision}
    losses = losses_of(25, 0, 64)
    losses[7] *= 1 + gap
    found = rules_between(tmp_path, {"config": config, "losses": losses}, {"config": config})
    assert found == (set() if passes else {"different-loss"})


def test_the_tolerance_grows_after_fifty_steps(tmp_path: Path) -> None:
    losses = losses_of(100, 0, 64)
    late, early = list(losses), list(losses)
    late[99] *= 1 + 1.7e-4
    early[49] *= 1 + 1.7e-4
    same = {"num_steps": 100, "losses": losses}
    assert rules_between(tmp_path / "a", {"num_steps": 100, "losses": late}, same) == set()
    assert rules_between(tmp_path / "b", {"num_steps": 100, "losses": early}, same) == {"different-loss"}


def test_beyond_a_hundred_steps_means_over_fifty_are_compared(tmp_path: Path) -> None:
    losses = losses_of(200, 0, 64)
    scattered = [loss * (1 + 0.1 * (-1) ** step * (step >= 100)) for step, loss in enumerate(losses)]
    shifted = [loss * (1.03 if step >= 150 else 1) for step, loss in enumerate(losses)]
    same = {"num_steps": 200, "losses": losses}
    assert rules_between(tmp_path / "a", {"num_steps": 200, "losses": scattered}, same) == set()
    assert rules_between(tmp_path / "b", {"num_steps": 200, "losses": shifted}, same) == {"different-loss"}


def test_the_message_has_the_figures(tmp_path: Path) -> None:
    reference = read_run(make_run(tmp_path / "baseline"))
    runs = [read_run(make_run(tmp_path / f"r{r}", config={"model.num_layers": 4 + (r > 0)})) for r in range(3)]
    [problem] = compare(runs, reference, "strong")
    assert problem.message == "model.num_layers is 5, the baseline's is 4 (in 2 of 3 repeats)"
