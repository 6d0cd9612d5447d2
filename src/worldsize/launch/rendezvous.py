"""The host at which ranks of several machines meet. Torch-free."""

from __future__ import annotations

import os
import socket

from worldsize.errors import UserError


def check_rendezvous() -> None:
    """Raise UserError where MASTER_ADDR does not resolve here: torch would retry for minutes. Never a fallback."""
    host = os.environ.get("MASTER_ADDR")
    if host is None:
        raise UserError("RANK is set, but MASTER_ADDR is not: say where the ranks meet, e.g. MASTER_ADDR=node1.")
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise UserError(
            f"the rendezvous host {host!r} (MASTER_ADDR) does not resolve on {socket.gethostname()}: {error}. Give a "
            "name or address that every node can resolve; localhost is never taken instead."
        ) from error
