"""The private Slurm that this folder's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import cluster, why_not


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands speak to a two-node cluster; skips where it cannot run."""
    reason = why_not()
    if reason:
        pytest.skip(f"no private Slurm: {reason}")
    with cluster() as environment:
        yield environment
