"""Answers against a simulated machine whose every coefficient is known, and by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from worldsize.errors import UserError
from worldsize.scaling.what_if import CellPhases, Scenario, StudyModel, WhatIf, fit_study, usual_questions

PAYLOAD_BYTES = 2e6


@dataclass(frozen=True)
class Machine:
    """A machine that obeys the model."""

    per_sample_s: float = 0.010
    fixed_s: float = 0.020
    per_micro_s: float = 0.0
    contention: float = 0.0  # share of per_sample_s added by each doubling of devices
    alpha_s: float = 0.004
    beta_bytes_per_s: float = 1e8
    hidden: float = 0.0  # share of the last backward pass under which communication runs

    def phases_s(self, asked: Scenario) -> tuple[float, float]:
        """Return local and exposed seconds of one step."""
        n = asked.devices
        work_s = self.per_sample_s * asked.global_batch / n * (1 + self.contention * math.log2(n))
        local_s = work_s + self.fixed_s + self.per_micro_s * asked.num_micro
        if n == 1:
            return local_s, 0.0
        link_s = 2 * (n - 1) / n * PAYLOAD_BYTES * asked.payload_factor / self.beta_bytes_per_s / asked.link_factor
        exchange_s = 2 * (n - 1) * self.alpha_s + link_s
        return local_s, max(0.0, exchange_s - self.hidden * 2 / 3 * work_s / asked.num_micro)

    def run(self, asked: Scenario, noise: float, rng: np.random.Generator) -> dict[str, float]:
        local_s, exposed_s = self.phases_s(asked)
        compute, optimizer, exchange = rng.standard_normal(3) * noise
        return {
            "compute_s": 0.9 * local_s * math.exp(compute),
            "optimizer_s": 0.1 * local_s * math.exp(optimizer),
            "exposed_communication_s": max(0.0, exposed_s * math.exp(exchange)),
        }

    def study(
        self, asked: list[Scenario], noise: float = 0.0, repeats: int = 3, rng: np.random.Generator | None = None
    ) -> list[CellPhases]:
        rng = rng or np.random.default_rng(0)
        return [
            CellPhases(
                one.devices,
                one.global_batch,
                [self.run(one, noise, rng) for _ in range(repeats)],
                PAYLOAD_BYTES,
                one.num_micro,
            )
            for one in asked
        ]


TWO_BY_TWO = [Scenario(n, batch) for n in (1, 2) for batch in (8, 16)]
THREE_BY_TWO = [Scenario(n, batch) for n in (1, 2, 4) for batch in (16, 32)]


def answer(model: StudyModel, asked: Scenario) -> WhatIf:
    result = model.predict(asked)
    assert result.step_time_s is not None, result.absent_because
    return result


@given(
    st.floats(1e-4, 1),
    st.floats(1e-4, 1),
    st.floats(0, 0.3),
    st.floats(0, 0.1),
    st.floats(1e7, 1e10),
    st.sampled_from(
        [Scenario(4, 128), Scenario(8, 64), Scenario(2, 32, payload_factor=0.5), Scenario(4, 32, link_factor=3.0)]
    ),
)
@hypothesis_settings(deadline=None, max_examples=50)
def test_without_noise_every_answer_is_exact(
    per_sample: float, fixed: float, contention: float, alpha: float, beta: float, asked: Scenario
) -> None:
    machine = Machine(per_sample, fixed, 0.0, contention, alpha, beta)
    result = answer(fit_study(machine.study(THREE_BY_TWO)), asked)
    assert result.step_time_s is not None
    assert result.step_time_s.value == pytest.approx(sum(machine.phases_s(asked)), rel=1e-4)
    baseline_s = sum(machine.phases_s(Scenario(1, asked.global_batch)))
    assert result.speedup is not None
    assert result.speedup.value == pytest.approx(baseline_s / sum(machine.phases_s(asked)), rel=1e-4)


def test_a_larger_batch_by_hand() -> None:
    # local 10 ms a sample + 20 ms; exchange 2 × 4 ms + 1 × 2 MB over 100 MB/s = 28 ms
    result = answer(fit_study(Machine().study(TWO_BY_TWO)), Scenario(2, 64))
    assert result.step_time_s is not None
    assert result.step_time_s.value == pytest.approx(0.320 + 0.020 + 0.028, rel=1e-6)
    assert result.speedup is not None
    assert result.speedup.value == pytest.approx(0.660 / 0.368, rel=1e-6)
    assert result.samples_per_s is not None
    assert result.samples_per_s.value == pytest.approx(64 / 0.368, rel=1e-6)


def test_latency_and_link_that_cannot_be_told_apart_span_all_shares() -> None:
    # 28 ms of exchange at 2 devices: all link, and bf16 saves 14 ms; all latency, and it saves nothing
    result = answer(fit_study(Machine().study(TWO_BY_TWO)), Scenario(2, 16, payload_factor=0.5))
    assert result.step_time_s is not None
    assert result.step_time_s.low == pytest.approx(0.080 + 0.020 + 0.014, rel=1e-3)
    assert result.step_time_s.high == pytest.approx(0.080 + 0.020 + 0.028, rel=1e-3)
    assert any("cannot be told apart" in sentence for sentence in result.assumptions)


def test_hidden_communication_comes_out_from_under_smaller_batches() -> None:
    machine = Machine(alpha_s=0.04, hidden=0.5)
    cells = machine.study([Scenario(n, batch) for n in (1, 2, 4) for batch in (8, 16, 24)])
    for asked in (Scenario(2, 4), Scenario(4, 32), Scenario(4, 64)):
        result = answer(fit_study(cells), asked)
        assert result.exposed_communication_s is not None
        assert result.exposed_communication_s.value == pytest.approx(machine.phases_s(asked)[1], rel=1e-4, abs=1e-9)


def test_accumulation_costs_its_micro_batches() -> None:
    machine = Machine(per_micro_s=0.005)
    asked = [Scenario(n, batch, micro) for n in (1, 2, 4) for batch, micro in ((16, 1), (32, 1), (32, 4))]
    result = answer(fit_study(machine.study(asked)), Scenario(4, 64, 8))
    assert result.step_time_s is not None
    assert result.step_time_s.value == pytest.approx(sum(machine.phases_s(Scenario(4, 64, 8))), rel=1e-6)


def test_more_ranks_than_devices_take_turns() -> None:
    model = fit_study(Machine().study(TWO_BY_TWO), num_slots=2)
    result = answer(model, Scenario(4, 64))
    assert result.step_time_s is not None
    assert result.exposed_communication_s is not None
    local_s = (result.step_time_s.value or 0) - (result.exposed_communication_s.value or 0)
    assert local_s == pytest.approx(2 * (0.160 + 0.020), rel=1e-6)
    assert any("take turns on 2 devices" in sentence for sentence in result.assumptions)


def test_one_device_says_nothing_of_communication() -> None:
    model = fit_study(Machine().study([Scenario(1, 8), Scenario(1, 16)]))
    assert answer(model, Scenario(1, 32)).step_time_s is not None
    result = model.predict(Scenario(2, 32))
    assert result.step_time_s is None
    assert "nothing is known of its communication" in (result.absent_because or "")


def test_communication_hidden_entirely_has_no_known_length() -> None:
    result = fit_study(Machine(hidden=1.0, alpha_s=0).study(TWO_BY_TWO)).predict(Scenario(4, 64))
    assert result.step_time_s is None
    assert "hidden under compute" in (result.absent_because or "")


def test_far_from_what_was_measured_is_in_doubt() -> None:
    model = fit_study(Machine().study(TWO_BY_TWO))
    assert answer(model, Scenario(2, 32)).doubt is None
    assert "samples per device" in (answer(model, Scenario(2, 256)).doubt or "")
    assert "devices that were measured" in (answer(model, Scenario(16, 256)).doubt or "")


def test_one_batch_on_more_devices_is_said_to_be_an_assumption() -> None:
    model = fit_study(Machine().study([Scenario(1, 8), Scenario(1, 16), Scenario(2, 16)]))
    said = answer(model, Scenario(2, 32)).assumptions
    assert any("taken not to change with the batch" in sentence for sentence in said)
    one_batch = fit_study(Machine().study([Scenario(1, 16), Scenario(2, 16)]))
    assert any("tell contention between devices" in sentence for sentence in one_batch.local.assumptions)


def test_too_few_points() -> None:
    with pytest.raises(UserError, match="two or more per-device batches"):
        fit_study(Machine().study([Scenario(1, 8)]))
    with pytest.raises(UserError, match="too few points"):
        fit_study([])


@pytest.mark.parametrize(
    "phases",
    [
        {"compute_s": math.nan},
        {"compute_s": -1.0},
        {"compute_s": 0.0},
        {"compute": 1.0},
        {"exposed_communication_s": 1.0},
    ],
)
def test_impossible_phases_are_named(phases: dict[str, float]) -> None:
    with pytest.raises(UserError, match="2 devices and global batch 8, repeat 0"):
        CellPhases(2, 8, [phases])


def test_impossible_scenarios_are_named() -> None:
    model = fit_study(Machine().study(TWO_BY_TWO))
    with pytest.raises(UserError, match="global batch of 8 or more"):
        model.predict(Scenario(4, 6, 2))
    with pytest.raises(UserError, match="factors"):
        model.predict(Scenario(2, 8, link_factor=0.0))


def test_the_usual_questions_travel_as_json() -> None:
    for result in usual_questions(fit_study(Machine().study(THREE_BY_TWO, noise=0.02)), 4, 32):
        assert WhatIf.model_validate_json(result.model_dump_json()) == result
        assert result.step_time_s is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "cells"),
    [
        (Machine(), TWO_BY_TWO),
        (Machine(contention=0.15), TWO_BY_TWO),
        (Machine(contention=0.1, alpha_s=0.01), THREE_BY_TWO),
        (Machine(hidden=0.4, alpha_s=0.04), TWO_BY_TWO),
    ],
    ids=["two", "two-contention", "three", "two-hidden"],
)
def test_further_runs_fall_into_the_interval(machine: Machine, cells: list[Scenario]) -> None:
    rng = np.random.default_rng(6)
    questions = [Scenario(2, 32), Scenario(2, 64), Scenario(2, 16, payload_factor=0.5), Scenario(4, 64)]
    held, trials, noise = np.zeros(len(questions)), 250, 0.02
    for _ in range(trials):
        model = fit_study(machine.study(cells, noise, rng=rng))
        for index, asked in enumerate(questions):
            step_time_s = answer(model, asked).step_time_s
            assert step_time_s is not None
            run = sum(machine.run(asked, noise, rng).values())
            held[index] += (step_time_s.low or 0) <= run <= (step_time_s.high or math.inf)
    print(held / trials)
    assert (held / trials >= 0.90).all()
