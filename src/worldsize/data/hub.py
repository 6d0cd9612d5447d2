"""What the Hugging Face hub needs from us: not to be asked in vain."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies


def offline_when_unreachable(*configurations: Any) -> None:
    """Put the hub's libraries into their offline mode when the hub's name cannot be resolved and there is no proxy.

    What is cached still loads; what is not fails at once rather than after a minute of retries. `configurations`
    are further modules with an HF_HUB_OFFLINE of their own.
    """
    from huggingface_hub import constants

    if getproxies():
        return
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        for configuration in (constants, *configurations):
            configuration.HF_HUB_OFFLINE = True


def first_line(error: Exception) -> str:
    """Return an error of another library in one line of at most 200 characters."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
