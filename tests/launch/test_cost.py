"""Expected cost, against sums done by hand."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.launch.test_jobs import cells
from tests.study.synthetic import make_run
from worldsize.config.around import LaunchConfig
from worldsize.errors import UserError
from worldsize.launch.cost import cost_text, estimate, time_limit_s
from worldsize.launch.jobs import jobs_by_cell, shapes_of

JOBS = jobs_by_cell(cells([1, 4], [8]), shapes_of([1], [1, 4]), repeats=3)


def test_price_times_devices_times_hours(tmp_path: Path) -> None:
    costs = estimate(JOBS, tmp_path, price_per_device_hour=2.0, expected_run_s=600.0, time=None)
    # 3 runs × 600 s = half an hour: 1 device costs 1.00, 4 devices cost 4.00.
    assert [each.cost for each in costs.jobs] == pytest.approx([1.0, 4.0])
    assert costs.cost == pytest.approx(5.0)
    text = cost_text(costs)
    assert "n4-b8: 3 runs × 600 s × 4 devices × 2 an hour = 4.00  (duration: --expected-run-s)" in text
    assert "together 5.00" in text


def test_finished_runs_say_how_long_the_next_one_takes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs/n1-b8/r1", global_batch=8)
    wall_s = json.loads((run / "result.json").read_text())["wall_s"]
    costs = estimate(JOBS[:1], tmp_path, price_per_device_hour=3600.0, expected_run_s=None, time=None)
    assert costs.jobs[0].num_runs == 2
    assert costs.cost == pytest.approx(2 * wall_s)
    assert "its 1 finished run" in costs.jobs[0].run_s_source


def test_a_time_limit_is_an_upper_bound_for_the_whole_job(tmp_path: Path) -> None:
    costs = estimate(JOBS, tmp_path, price_per_device_hour=1.0, expected_run_s=None, time="1:00:00")
    assert [each.cost for each in costs.jobs] == pytest.approx([1.0, 4.0])
    assert "upper bound" in costs.jobs[0].run_s_source


def test_without_a_duration_there_is_no_estimate(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--expected-run-s SECONDS"):
        estimate(JOBS, tmp_path, price_per_device_hour=1.0, expected_run_s=None, time=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", timedelta(minutes=90)),
        ("1:30", timedelta(minutes=1, seconds=30)),
        ("2:03:04", timedelta(hours=2, minutes=3, seconds=4)),
        ("1-12", timedelta(days=1, hours=12)),
        ("1-12:30", timedelta(days=1, hours=12, minutes=30)),
        ("2-00:00:01", timedelta(days=2, seconds=1)),
    ],
)
def test_time_limits_as_slurm_writes_them(text: str, expected: timedelta) -> None:
    assert time_limit_s(text) == expected.total_seconds()


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=400)))
def test_every_limit_that_the_config_takes_is_read(limit: timedelta) -> None:
    seconds = int(limit.total_seconds())
    text = f"{seconds // 86400}-{seconds // 3600 % 24}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    assert LaunchConfig(time=text).time == text
    assert time_limit_s(text) == seconds
    assert re.fullmatch(r"\d+-\d+:\d\d:\d\d", text)
