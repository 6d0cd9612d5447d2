"""glibc's own functions, where there is glibc. Torch-free."""

from __future__ import annotations

import ctypes
import sys
from typing import Any


def c_function(name: str) -> Any | None:
    """Return a function of the C library; None off Linux and where the library does not have it."""
    if sys.platform != "linux":
        return None
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
