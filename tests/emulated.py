"""Emulated hosts for tests: real ones where this process may make them, else a skip that says why."""

from __future__ import annotations

import pytest

from worldsize.config.around import LabConfig
from worldsize.errors import UserError
from worldsize.launch.lab import emulated


def skip_without_lab() -> None:
    """Skip the calling test where no hosts can be emulated."""
    try:
        with emulated(LabConfig(hosts=2, link="1gbit"), 2):
            pass
    except UserError as error:
        pytest.skip(f"no hosts can be emulated here: {error}")
