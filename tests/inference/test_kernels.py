"""The compiled kernels where they cannot be had: a reason in words, and PyTorch alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from worldsize.inference import kernels
from worldsize.inference.int4 import Int4
from worldsize.inference.int8 import Int8


@pytest.fixture(autouse=True)
def forgets() -> Iterator[None]:
    """What was found before is asked anew, here and afterwards."""
    kernels.why_not.cache_clear()
    yield
    kernels.why_not.cache_clear()


def assert_falls_back(reason: str) -> None:
    assert reason in str(kernels.why_not())
    weight_OI = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    for matrix in (Int8, Int4):
        packed = matrix.pack(weight_OI)
        assert packed.ready() is packed


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.SWITCH, "0")
    assert_falls_back("WORLDSIZE_KERNELS=0")


def test_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_processor_flags", lambda: frozenset({"avx512f", "avx512bw"}))
    monkeypatch.setattr(kernels.platform, "machine", lambda: "x86_64")
    assert_falls_back("lacks avx512dq, avx512vl, avx512_vnni")


def test_on_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.platform, "machine", lambda: "aarch64")
    assert_falls_back("this is aarch64")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "_processor_flags", lambda: frozenset(kernels.INSTRUCTIONS))
    monkeypatch.setattr(kernels.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert_falls_back("no C++ compiler")


def test_where_building_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler that ends with an error; nothing half-built is left behind."""
    failing = tmp_path / "bin" / "g++"
    failing.parent.mkdir()
    failing.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(kernels, "_missing", lambda: None)
    monkeypatch.setenv("CXX", str(failing))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    assert_falls_back("could not be built")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_build_is_loaded_by_the_next_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies in the cache is taken as it is: here something that is no library."""
    monkeypatch.setattr(kernels, "_missing", lambda: None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_build", lambda built: built.write_text("no library"))
    assert kernels._load() is None
    assert "could not be built" in str(kernels._load())
