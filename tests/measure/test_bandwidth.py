"""Reading speed: what is read is the whole buffer, and huge pages are told as the kernel tells them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldsize.measure import bandwidth
from worldsize.measure.bandwidth import ReadBandwidth, bytes_in_huge_pages, huge_pages


def test_every_reduction_reads_every_byte() -> None:
    """A change at the buffer's end changes what each reads."""
    buffer = torch.zeros(4096, dtype=torch.uint8)
    before = [float(read(buffer)) for read in bandwidth._READS]
    buffer[-8:] = torch.tensor([0, 0, 0, 0, 0, 0, 128, 64], dtype=torch.uint8)  # a float of 4.0
    assert all(float(read(buffer)) > old for read, old in zip(bandwidth._READS, before, strict=True))


def test_the_best_reading_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 2.0, 2.0, 3.0, 3.0, 7.0])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(moments))
    probe = ReadBandwidth(2**20)
    assert probe.measure(num_reads=1) == 2**20  # 2 s, 1 s and 4 s


@pytest.mark.parametrize(
    ("text", "expected"),
    [("always [madvise] never\n", "madvise"), ("[always] madvise never\n", "always"), ("", "not known")],
)
def test_the_kernels_setting(text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "enabled").write_text(text)
    monkeypatch.setattr(bandwidth, "SETTING", tmp_path / "enabled")
    assert huge_pages() == expected
    monkeypatch.setattr(bandwidth, "SETTING", tmp_path / "none")
    assert huge_pages() == "not known"


def test_bytes_in_huge_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smaps").write_text("Rss:  1234 kB\nAnonHugePages:    4096 kB\nSwap: 0 kB\n")
    monkeypatch.setattr(bandwidth, "SMAPS", tmp_path / "smaps")
    assert bytes_in_huge_pages() == 4096 * 1024
    monkeypatch.setattr(bandwidth, "SMAPS", tmp_path / "none")
    assert bytes_in_huge_pages() is None
