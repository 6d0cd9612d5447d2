"""Break-even against figures worked out by hand, and against the cost model of the synthetic study itself.

One device takes 105 ms a step. Two take 55 ms and the exposed exchange of 4 MB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.study.synthetic import make_study
from tests.study.synthetic_work import phases_of
from worldsize.config.schema import Config
from worldsize.scaling.remedies import remedies_for
from worldsize.study.records import BreakEven, StudyResult
from worldsize.study.results import analyse

NETWORK = {"num_hosts": 2, "link_bit_per_s": 1e8, "latency_s": 0.0, "all_reduce_bit_per_s": 9e7}


def slow_study(folder: Path, exposed_s: float = 0.4, **network: Any) -> StudyResult:
    fault = {
        "phases": phases_of(2, 64, exposed_s=exposed_s),
        "environment": {"emulated": {**NETWORK, **network}},
    }
    return analyse(make_study(folder, noise=0.0, faults={"n2-b64": fault}))


def found(result: StudyResult) -> BreakEven:
    assert result.cells[1].break_even is not None
    return result.cells[1].break_even


def test_every_figure_by_hand(tmp_path: Path) -> None:
    # affordable 105 - 55 = 50 ms; wire 4 MB x 8 / 90 Mbit/s = 355.6 ms; 400 - 355.6 + w = 50 leaves w = 5.6 ms, a link
    # 64 times as fast; 50.5 k + 404.5 = 100.5 k + 4.5 at k = 8
    even = found(slow_study(tmp_path))
    assert even.affordable_s == pytest.approx(0.050)
    assert even.wire_s == pytest.approx(0.35556, rel=1e-4)
    assert even.break_even_link_bit_per_s == pytest.approx(9e7 * 64, rel=1e-6)
    assert even.break_even_global_batch == 512


def test_at_the_break_even_batch_both_are_as_fast(tmp_path: Path) -> None:
    batch = found(slow_study(tmp_path)).break_even_global_batch
    assert batch is not None
    one, two = (sum(phases_of(n, batch, exposed_s=0.4).values()) for n in (1, 2))
    assert one == pytest.approx(two, rel=1e-6)


def test_hidden_communication_stays_hidden(tmp_path: Path) -> None:
    # wire 355.6 ms, of which 155.6 are hidden: 50 may show, so 205.6 may be on the wire
    even = found(slow_study(tmp_path, exposed_s=0.2))
    assert even.break_even_link_bit_per_s == pytest.approx(9e7 * 355.556 / 205.556, rel=1e-4)


def test_no_link_helps_against_what_is_not_the_links(tmp_path: Path) -> None:
    # the wire of 36 ms is the smaller part: 364 ms of 400 stay at any rate, and 50 would be affordable
    even = found(slow_study(tmp_path, all_reduce_bit_per_s=9e8))
    assert even.break_even_link_bit_per_s is None
    assert even.break_even_global_batch == 512


def test_without_a_measured_link_only_the_batch_is_told(tmp_path: Path) -> None:
    fault = {"phases": phases_of(2, 64, exposed_s=0.4)}
    result = analyse(make_study(tmp_path, noise=0.0, faults={"n2-b64": fault}))
    assert found(result).wire_s is None
    assert found(result).break_even_link_bit_per_s is None
    why = "\n".join(result.verdict.why)
    assert "They would break even at a global batch of 512, if" in why


def test_where_compute_gains_nothing_no_batch_helps(tmp_path: Path) -> None:
    fault = {"phases": {**phases_of(2, 64, exposed_s=0.4), "compute_s": 0.1}}
    result = analyse(make_study(tmp_path, noise=0.0, faults={"n2-b64": fault}))
    assert found(result).break_even_global_batch is None
    assert "No link and no batch would make them break even." in result.verdict.why


def test_the_report_says_why_with_numbers(tmp_path: Path) -> None:
    verdict = slow_study(tmp_path).verdict
    assert verdict.headline.startswith("2 devices are slower than 1: 0.23x as fast")
    why = "\n".join(verdict.why)
    assert "2 devices are slower than 1 because 400.0 ms of a step's 455.0 ms are exposed communication" in why
    assert "(88 %; compute : exposed communication is 0.12)" in why
    assert "As fast as the baseline they would be with 50.0 ms of it." in why
    assert "keeps the link busy for 355.6 ms at the 90 Mbit/s that it was measured to give" in why
    assert "break even at a link that gives 5.76 Gbit/s or at a global batch of 512" in why


def test_it_proposes_remedies_with_what_each_should_give(tmp_path: Path) -> None:
    # bf16: 400 - 177.8 exposed: 105 / 277.2; a batch of 256: 50.5 + (4.5 + 400) / 4 = 151.6 for 64 samples
    proposed = next(line for line in slow_study(tmp_path).verdict.next if line.startswith("Remedies"))
    assert "gradients rounded to bf16 for the exchange: 0.38x" in proposed
    assert "4 times the global batch" not in proposed  # 25 steps are no multiple of 4
    assert proposed.endswith("--try-remedies runs them, with the loss beside.")


def test_a_study_that_gains_says_nothing_of_it(tmp_path: Path) -> None:
    verdict = analyse(make_study(tmp_path, noise=0.0)).verdict
    assert not any("break even" in line for line in verdict.why)
    assert not any("Remedies" in line for line in verdict.next)


def config(**changes: Any) -> Config:
    tree = Config().model_dump()
    tree["model"] |= {"vocab_size": 256, "d_ff": 512, "num_kv_heads": 4}
    for key, value in changes.items():
        section, name = key.split("__")
        tree[section][name] = value
    return Config.model_validate(tree)


def test_a_larger_batch_keeps_the_tokens_and_scales_the_rate_with_its_root() -> None:
    remedies = {
        remedy.name: remedy
        for remedy in remedies_for(config(train__steps=160, train__global_batch=16, optimizer__warmup_steps=16), 2)
    }
    assert set(remedies["accumulation"].overrides) == {
        "train.global_batch=64", "train.steps=40", "optimizer.learning_rate=0.002", "optimizer.warmup_steps=4",
        "train.micro_batch=8",
    }  # fmt: skip
    assert "train.micro_batch=32" in remedies["larger-batch"].overrides
    assert remedies["bf16-gradients"].wire_factor == pytest.approx(0.5)
    assert remedies["int4-gradients"].wire_factor == pytest.approx(34 / 64 / 4)  # both bring a rank one whole or part
    assert 0.01 < remedies["powersgd"].wire_factor < 0.3


@pytest.mark.parametrize(("world_size", "factor"), [(2, 34 / 256), (4, 34 / 256 * 2), (16, 34 / 256 * 8)])
def test_gathered_integers_gain_less_the_more_ranks_there_are(world_size: int, factor: float) -> None:
    remedies = {remedy.name: remedy for remedy in remedies_for(config(), world_size)}
    assert remedies["int4-gradients"].wire_factor == pytest.approx(factor)


@pytest.mark.parametrize("world_size", [2, 4])
def test_local_steps_are_longer_by_the_root_of_the_devices(world_size: int) -> None:
    given = config(train__steps=160, optimizer__learning_rate=0.001)
    remedies = {remedy.name: remedy for remedy in remedies_for(given, world_size)}
    rate = {2: "0.00141421", 4: "0.002"}[world_size]
    common = {"parallel.strategy=local_sgd", "parallel.local_steps=16", f"optimizer.learning_rate={rate}"}
    assert set(remedies["local-sgd"].overrides) == common
    assert set(remedies["diloco"].overrides) - common == {
        "parallel.outer_learning_rate=0.7", "parallel.outer_momentum=0.9",
    }  # fmt: skip


@pytest.mark.parametrize("changes", [{"parallel__strategy": "fsdp"}, {"parallel__strategy": "single"}])
def test_what_exchanges_no_gradients_has_no_remedies(changes: dict[str, Any]) -> None:
    assert remedies_for(config(**changes), 2) == []


def test_what_is_compressed_already_is_not_compressed_again() -> None:
    names = {remedy.name for remedy in remedies_for(config(parallel__gradient_compression="bf16"), 2)}
    assert not names & {"bf16-gradients", "int4-gradients", "powersgd"}
