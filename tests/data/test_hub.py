"""Offline mode is entered only where the hub cannot be reached."""

from __future__ import annotations

import socket
import types

import pytest

from worldsize.data.hub import first_line, offline_when_unreachable

pytestmark = pytest.mark.hf
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.mark.usefixtures("no_network")
def test_offline_where_no_name_resolves() -> None:
    other = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    offline_when_unreachable(other)
    assert (constants.HF_HUB_OFFLINE, other.HF_HUB_OFFLINE) == (True, True)


@pytest.mark.usefixtures("no_network")
def test_a_proxy_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldsize.data.hub.getproxies", lambda: {"https": "proxy:8080"})
    offline_when_unreachable()
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("no_network")
def test_online_where_the_name_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: asked.append(args))
    offline_when_unreachable()
    assert constants.HF_HUB_OFFLINE is False
    assert asked == [("huggingface.co", 443)]


def test_errors_of_other_libraries_become_one_line() -> None:
    assert first_line(OSError("one\ntwo")) == "OSError: one"
    assert len(first_line(OSError("x" * 1000))) == 200
