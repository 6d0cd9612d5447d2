"""Laws fitted to a study's cells, and what is said of the next doubling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.study.synthetic import make_study
from worldsize.scaling.laws import Amdahl
from worldsize.study.records import StudyResult
from worldsize.study.results import analyse

LAW = Amdahl(0.1, 0.05)


def by_amdahl(folder: Path, devices: tuple[int, ...], **more: Any) -> StudyResult:
    times = {f"n{n}-b64": {"step_time_s": float(LAW.time_s(n))} for n in devices}
    return analyse(make_study(folder, world_sizes=devices, **{"noise": 0.005, "faults": times, **more}))


def test_a_known_law_tells_the_next_doubling(tmp_path: Path) -> None:
    result = by_amdahl(tmp_path, (1, 2, 4, 8), environment={"num_cores": 64})
    assert result.fits is not None
    truth = float(LAW.time_s(1) / LAW.time_s(16))
    [told] = result.fits.outlook
    speedup = told.doublings[0].speedup
    assert speedup.low is not None
    assert speedup.high is not None
    assert speedup.low <= truth <= speedup.high
    line = next(line for line in result.verdict.next if line.startswith("16 devices should give"))
    assert f"({speedup.low:.2f}-{speedup.high:.2f}) by {next(iter(result.fits.fits)).title[:6]}" in line
    assert f"{speedup.value:.2f}x" in line


def test_two_numbers_of_devices_foretell_nothing(tmp_path: Path) -> None:
    result = by_amdahl(tmp_path, (1, 2))
    assert result.fits is not None
    line = next(line for line in result.verdict.next if line.startswith("4 devices"))
    assert "nothing believable can be said" in line
    assert "measure a third" in line
    assert "x (" not in line


def test_too_few_runs_are_said_to_be(tmp_path: Path) -> None:
    result = by_amdahl(tmp_path, (1, 2), repeats=2)
    assert result.fits is not None
    assert result.fits.best is None
    assert any("More devices than measured: nothing can be said" in line for line in result.verdict.next)
    assert any("needs 5 over these points, there are 4" in line for line in result.verdict.next)


def test_only_the_same_work_is_fitted(tmp_path: Path) -> None:
    times = {f"n{n}-b64": {"step_time_s": float(LAW.time_s(n))} for n in (1, 2, 4)}
    times["n4-b64"]["every_rank_all_data"] = True
    folder = make_study(tmp_path, world_sizes=(1, 2, 4), faults=times)
    for override in (False, True):
        fits = analyse(folder, override).fits
        assert fits is not None
        assert [curve.devices for fit in fits.fits for curve in fit.curves] == [[1, 2]]


def test_one_number_of_devices_has_no_law(tmp_path: Path) -> None:
    assert analyse(make_study(tmp_path, world_sizes=(2,), global_batches=(64, 128))).fits is None


@pytest.mark.parametrize("scaling", ["strong", "weak"])
def test_varied_settings_are_curves_of_their_own(tmp_path: Path, scaling: str) -> None:
    vary = {"model.num_layers": [2, 4]}
    fits = analyse(make_study(tmp_path, world_sizes=(1, 2, 4), vary=vary, scaling=scaling)).fits
    assert fits is not None
    assert {curve.series for fit in fits.fits for curve in fit.curves} == {"model.num_layers=2", "model.num_layers=4"}
