"""Peaks, matmul rates, energy counters, cores: what is known, and that the unknown stays absent."""

from pathlib import Path

import pytest
import torch

from worldsize.launch.pinning import cores_of
from worldsize.measure.energy import EnergyMeter
from worldsize.measure.matmul import matmul_rates
from worldsize.measure.peaks import peak_flop_per_s


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156e12),
        ("Tesla V100-SXM2-32GB", "fp16", 125e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
    ],
)
def test_known_devices(name: str, precision: str, peak: float) -> None:
    assert peak_flop_per_s(name, precision)[0] == peak


@pytest.mark.parametrize("name", ["AMD EPYC", "NVIDIA A40", "NVIDIA H100 NVL", "Some Future GPU"])
def test_an_unknown_device_has_no_peak_and_a_reason(name: str) -> None:
    peak, why = peak_flop_per_s(name, "bf16")
    assert peak is None
    assert name in why


def test_a_precision_without_a_peak_is_absent_too() -> None:
    assert peak_flop_per_s("Tesla T4", "bf16") == (None, "Tesla T4 has no bf16 peak in its datasheet")


def test_the_measured_matmul_rate_is_within_reach_of_a_hand_timed_product() -> None:
    import time

    rate = matmul_rates(torch.device("cpu"), torch.float32, budget_s=0.3).stock
    x, y = torch.randn(768, 768), torch.randn(768, 768)
    times = []
    for _ in range(9):
        began = time.perf_counter()
        x @ y
        times.append(time.perf_counter() - began)
    by_hand = 2 * 768**3 / min(times)
    assert 0.33 * by_hand < rate < 3 * by_hand  # either may meet a busy moment


def write_zone(root: Path, name: str, energy_uj: int) -> Path:
    zone = root / name
    zone.mkdir(exist_ok=True)
    (zone / "energy_uj").write_text(f"{energy_uj}\n")
    (zone / "max_energy_range_uj").write_text("10000000\n")
    return zone


def test_rapl_packages_add_up_and_wrap_around(tmp_path: Path) -> None:
    first = write_zone(tmp_path, "intel-rapl:0", 1_000_000)
    second = write_zone(tmp_path, "intel-rapl:1", 9_000_000)
    write_zone(tmp_path, "intel-rapl:0:0", 5)  # a part of package 0, already in it
    meter = EnergyMeter(torch.device("cpu"), counts_host=True, rapl=tmp_path)
    meter.start()
    (first / "energy_uj").write_text("3500000")
    (second / "energy_uj").write_text("1000000")
    meter.stop()
    assert meter.joules == pytest.approx(2.5 + 2.0)


def test_only_one_rank_a_host_counts_its_packages(tmp_path: Path) -> None:
    zone = write_zone(tmp_path, "intel-rapl:0", 0)
    meter = EnergyMeter(torch.device("cpu"), counts_host=False, rapl=tmp_path)
    meter.start()
    (zone / "energy_uj").write_text("5000000")
    meter.stop()
    assert meter.joules == 0.0


def test_without_a_counter_there_is_a_reason_and_no_number(tmp_path: Path) -> None:
    meter = EnergyMeter(torch.device("cpu"), counts_host=True, rapl=tmp_path)
    meter.start()
    meter.stop()
    assert meter.joules is None
    assert "no energy counter" in (meter.absent_because or "")


def test_ranks_have_cores_of_their_own_while_there_are_enough() -> None:
    assert [cores_of(rank, 2, [0, 1, 2, 3]) for rank in range(2)] == [[0, 1], [2, 3]]
    assert [cores_of(rank, 1, [4, 6]) for rank in range(4)] == [[4], [6], [4], [6]]
    assert cores_of(0, 4, [0, 1]) == [0, 1]
