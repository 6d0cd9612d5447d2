"""Small corpora, and the shared data sets where they are at hand."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from worldsize.config.schema import DataConfig


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets: $WORLDSIZE_SHARED/data, or ../shared/data beside the checkout."""
    beside = Path(__file__).parents[3] / "shared"
    folder = Path(os.environ.get("WORLDSIZE_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip("no shared data (set WORLDSIZE_SHARED)")
    return folder


@pytest.fixture
def make_data(tmp_path: Path):
    """Return a DataConfig with a cache of its own."""

    def make(source: object, tokenizer: object = "bytes", **rest: object) -> DataConfig:
        return DataConfig(source=str(source), tokenizer=str(tokenizer), cache_dir=str(tmp_path / "cache"), **rest)

    return make


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no name resolves."""
    constants = pytest.importorskip("huggingface_hub.constants")
    datasets = pytest.importorskip("datasets")

    def fail(*_args: object, **_named: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr("worldsize.data.hub.getproxies", dict)
    for module in (constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)  # and restored afterwards
