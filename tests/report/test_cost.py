"""Costs against figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from tests.report.filled import ONE_CURVE, filled
from tests.report.studies import make_cell, make_study, refused
from worldsize.errors import UserError
from worldsize.measure.statistics import measured
from worldsize.report.cost import Request, check, plan

STUDY = make_study(
    make_cell(1, step_time_s=measured([0.1]), tokens_per_s=measured([64 * 128 / 0.1])),
    make_cell(2, step_time_s=measured([0.06]), tokens_per_s=measured([64 * 128 / 0.06]), efficiency=measured([0.8])),
)


def test_a_measured_size_is_reckoned_from_its_own_steps() -> None:
    [cost] = plan(STUDY, Request(devices=2, steps=60_000)).at_request()
    assert (cost.basis, cost.doubt, cost.num_steps) == ("measured", None, 60_000)
    assert cost.wall_h
    assert cost.wall_h.value == pytest.approx(1.0)  # 60,000 × 0.06 s
    assert cost.device_h
    assert cost.device_h.value == pytest.approx(2.0)
    assert cost.efficiency
    assert cost.efficiency.value == pytest.approx(0.8)


def test_tokens_become_whole_steps() -> None:
    [cost] = plan(STUDY, Request(devices=1, tokens=64 * 128 * 1000 + 1)).at_request()
    assert cost.num_steps == 1001
    assert cost.device_h
    assert cost.device_h.value == pytest.approx(1001 * 0.1 / 3600)


def test_without_laws_nothing_is_said_beyond_the_measured() -> None:
    planned = plan(STUDY, Request(devices=8, steps=1))
    assert planned.at_request() == []
    assert planned.not_known == [
        "global batch 64: nothing is said of 8 devices: no scaling law was fitted (1, 2 measured); measure more sizes."
    ]


def test_a_prediction_is_the_outlooks_own() -> None:
    assert ONE_CURVE.fits
    [outlook] = ONE_CURVE.fits.outlook
    prediction = outlook.doublings[0]
    [cost] = plan(ONE_CURVE, Request(devices=16, steps=3600)).at_request()
    assert cost.basis == "predicted"
    assert cost.doubt == prediction.doubt
    assert cost.step_time_s == prediction.step_time_s
    assert cost.device_h
    assert prediction.step_time_s.high
    assert cost.device_h.high == pytest.approx(prediction.step_time_s.high * 16)
    assert cost.efficiency
    assert prediction.speedup.value
    assert cost.efficiency.value == pytest.approx(prediction.speedup.value / 16)


def test_between_two_sizes_the_mean_is_geometric_and_says_so() -> None:
    study = filled((1, 2, 4, 8), (64,), fits=None)
    [cost] = plan(study, Request(devices=6, steps=1)).at_request()
    four, eight = (cell.step_time_s.median for cell in study.cells[2:] if cell.step_time_s)
    share = math.log(6 / 4) / math.log(2)
    assert cost.step_time_s.value == pytest.approx(four ** (1 - share) * eight**share)
    assert four > (cost.step_time_s.value or 0) > eight
    assert cost.note
    assert "between 4 (measured) and 8 (measured) devices" in cost.note


def test_far_beyond_the_laws_is_not_known() -> None:
    planned = plan(ONE_CURVE, Request(devices=1024))
    assert planned.at_request() == []
    assert "1024 devices lie beyond what the laws say anything of (1, 2, 4, 8 measured" in planned.not_known[0]


def test_a_refused_comparison_has_a_cost_and_no_efficiency() -> None:
    [cost] = plan(make_study(make_cell(1), refused(2)), Request(devices=2, steps=10)).at_request()
    assert cost.efficiency is None
    assert cost.efficiency_absent_because == "comparison refused by unequal-work (see Problems)"
    assert cost.device_h


def test_no_plan_no_hours() -> None:
    assert all(cost.device_h is None for cost in plan(STUDY, Request(devices=2)).costs)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(steps=1, tokens=1), "--steps and --tokens were both given"),
        (Request(devices=0), r"--devices is 0\. Give a number from 1 up"),
        (Request(tokens=-5), "--tokens is -5"),
    ],
)
def test_impossible_requests(request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(request_)
