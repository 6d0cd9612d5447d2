"""The doctor's judgements of what machines say, and a whole examination of this one."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from worldsize.__main__ import main
from worldsize.doctor import examine, hardware, network, software, storage
from worldsize.doctor.finding import Finding, fail, ok

DGX = """\
	GPU0	GPU1	GPU2	GPU3	NIC0	CPU Affinity	NUMA Affinity
GPU0	 X 	NV18	NV18	NV18	PXB	0-55	0
GPU1	NV18	 X 	NV18	NV18	PXB	0-55	0
GPU2	NV18	NV18	 X 	NV18	NODE	56-111	1
GPU3	NV18	NV18	NV18	 X 	SYS	56-111	1
NIC0	PXB	PXB	NODE	SYS	 X

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes
"""
TWO_SOCKETS = """\
        GPU0    GPU1    CPU Affinity
GPU0     X      SYS     0-15
GPU1    SYS      X      16-31
"""
ONE = "\tGPU0\tCPU Affinity\nGPU0\t X \t0-15\n"


def test_the_slowest_link_between_gpus_is_judged_and_network_cards_are_left_out() -> None:
    assert hardware.gpu_links(DGX) == (4, {"NV"})
    assert hardware.between_gpus(DGX) == ok("interconnect", "between 4 GPUs of this host NCCL will use NVLink")
    across = hardware.between_gpus(TWO_SOCKETS)
    assert across.status == "warn"
    assert "the link between CPU sockets" in across.found
    assert hardware.between_gpus(ONE).found == "one GPU: nothing to connect on this host"


def test_settings_that_slow_nccl_are_named() -> None:
    [finding] = hardware.nccl_settings({"NCCL_DEBUG": "INFO", "NCCL_P2P_DISABLE": "1"})
    assert finding.status == "warn"
    assert "NCCL_P2P_DISABLE: GPUs of one host then talk through its memory" in finding.found
    assert [f.status for f in hardware.nccl_settings({"NCCL_DEBUG": "INFO", "NCCL_IB_DISABLE": "0"})] == ["ok"]
    assert hardware.nccl_settings({}) == []


def test_infiniband_ports_are_read_from_the_kernel(tmp_path: Path) -> None:
    port = tmp_path / "class/infiniband/mlx5_0/ports/1"
    port.mkdir(parents=True)
    (port / "state").write_text("4: ACTIVE\n")
    (port / "rate").write_text("200 Gb/sec (4X HDR)\n")
    ports = hardware.infiniband(tmp_path)
    assert ports == {"mlx5_0/1": "4: ACTIVE, 200 Gb/sec (4X HDR)"}
    assert [f.status for f in hardware.between_hosts(ports)] == ["ok"]
    [down] = hardware.between_hosts({"mlx5_0/1": "1: DOWN"})
    assert down.status == "warn"
    assert "falls back to TCP" in down.found


def test_gpu_clocks_that_are_held_down_are_named() -> None:
    text = (
        "0, 1980, Not Active, Not Active, Not Active, 700.00, 700.00, Enabled\n"
        "1, 1980, Not Active, Active, Active, 500.00, 700.00, Enabled\n"
    )
    [finding] = hardware.gpu_clock_findings(text)
    assert finding.found == "GPU 1 is slowed by power cap, heat; GPU 1's power limit is 500.00 W of 700.00 W."
    assert [f.status for f in hardware.gpu_clock_findings(text.splitlines()[0])] == ["ok"]


@pytest.mark.parametrize(
    ("governors", "status"), [(set(), "none"), ({"performance"}, "ok"), ({"performance", "powersave"}, "warn")]
)
def test_governors(governors: set[str], status: str) -> None:
    assert hardware.governor_finding(governors).status == status


def test_quotas_of_both_kinds_of_control_groups(tmp_path: Path) -> None:
    assert hardware.cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("150000")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert hardware.cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert hardware.cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert hardware.cpu_quota(tmp_path) == 4.0


@pytest.mark.parametrize(
    ("found", "status"), [("2.13.0+cpu", "ok"), ("2.11.1", "ok"), ("2.10.2", "fail"), ("2.14.0a0+git1", "warn")]
)
def test_versions_are_judged_by_what_was_tested(found: str, status: str) -> None:
    assert software.judged("torch", found, ((2, 11), (2, 13))).status == status


def test_the_versions_are_those_that_the_package_asks_for() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    (first, last), (torch_first, torch_last) = software.PYTHON, software.TORCH
    assert f'requires-python = ">={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}"' in project
    assert f'"torch>={torch_first[0]}.{torch_first[1]},<{torch_last[0]}.{torch_last[1] + 1}"' in project


def test_a_taken_port_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        finding = network.ports()[-1]
    assert finding.status == "warn"
    assert f"port {port} (MASTER_PORT) is taken" in finding.found
    assert "--master-port" in (finding.fix or "")


def test_an_address_that_is_not_this_hosts_fails() -> None:
    finding = network.reachable("192.0.2.77", "somewhere")
    assert finding.status == "fail"
    assert "192.0.2.77" in finding.found


def test_a_master_that_does_not_resolve_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    [finding] = network.names()
    assert finding.status == "fail"
    assert "no-such-host.invalid does not resolve" in finding.found


def test_an_unsynchronised_clock_is_a_warning_and_says_what_it_spoils(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "kernel_clock_state", lambda: network.TIME_ERROR)
    [finding] = network.time_sync()
    assert finding.status == "warn"
    assert "Step times are not affected" in finding.found
    monkeypatch.setattr(network, "kernel_clock_state", lambda: None)
    assert [f.status for f in network.time_sync()] == ["none"]


def test_the_kernel_says_something_of_its_clock() -> None:
    assert network.kernel_clock_state() in range(6)


def test_interfaces_tell_their_rates(tmp_path: Path) -> None:
    for name, speed in (("eth0", "100000"), ("eth1", "-1"), ("lo", "")):
        folder = tmp_path / "class/net" / name
        folder.mkdir(parents=True)
        (folder / "speed").write_text(speed)
    assert network.interface_speeds(tmp_path) == {"eth0": 100_000}


def test_little_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)

    class Small:
        f_blocks, f_bavail, f_frsize = 64 * 2**20 // 4096, 64 * 2**20 // 4096, 4096

    monkeypatch.setattr(storage.os, "statvfs", lambda path: Small)
    [finding] = storage.shared_memory(tmp_path)
    assert finding.status == "warn"
    assert "0.1 GiB" in finding.found
    assert "--shm-size" in (finding.fix or "")
    assert stat.f_frsize > 0


def test_the_file_system_of_a_folder_to_come_is_that_of_the_one_above(tmp_path: Path) -> None:
    [finding] = storage.file_system(tmp_path / "not" / "yet")
    assert finding.status in ("ok", "warn")
    assert str(tmp_path) in finding.found
    assert list(tmp_path.iterdir()) == []


def test_the_longest_mount_point_names_the_kind(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\nhost:/x /scratch nfs4 rw 0 0\nnone /scratch/fast tmpfs rw 0 0\n")
    assert storage.kind_of(Path("/scratch/me"), mounts) == "nfs4"
    assert storage.kind_of(Path("/scratch/fast/me"), mounts) == "tmpfs"
    assert storage.kind_of(Path("/scratchy"), mounts) == "ext4"


def test_a_check_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def breaks() -> list[Finding]:
        raise RuntimeError("surprise")

    monkeypatch.setattr(examine, "checks", lambda out: {"one": breaks, "two": lambda: [ok("two", "fine")]})
    findings = examine.examine(tmp_path).findings
    assert [(f.check, f.status) for f in findings] == [("one", "warn"), ("two", "ok")]
    assert "RuntimeError: surprise" in findings[0].found


def test_this_machine_as_json_and_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--out", str(tmp_path), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    checks = [finding["check"] for finding in findings]
    assert {"torch", "gloo", "devices", "cores", "shared memory", "file system", "emulated hosts"} <= set(checks)
    assert all(finding["fix"] for finding in findings if finding["status"] in ("warn", "fail"))
    assert main(["doctor", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert all(check in shown for check in checks)
    assert f"of {len(checks)} findings." in shown


def test_a_failure_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(examine, "checks", lambda out: {"one": lambda: [fail("one", "broken.", "Mend it.")]})
    assert main(["doctor"]) == 1
    assert "→ Mend it." in capsys.readouterr().out
