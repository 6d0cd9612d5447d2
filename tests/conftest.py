"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ranks import Ranks
from tests.warm.start import Warm, ranks_forked, started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests where there is no GPU."""
    if not any("gpu" in item.keywords for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep tokenized corpora away from the user's cache; subprocesses inherit it."""
    cache = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    yield cache
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Give torch one thread, which commands set for the whole process, and afterwards what it had before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def warm(own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm | None]:
    """What forks processes that have torch imported already; None where it cannot be had."""
    with started(tmp_path_factory.mktemp("warm")) as warm:
        yield warm


@pytest.fixture(scope="module")
def warm_ranks(warm: Warm | None) -> Iterator[None]:
    """Let `launch` start its ranks as forks: for tests that ask what ranks do, not how their processes start."""
    with ranks_forked(warm):
        yield


@pytest.fixture
def warm_ranks_here(warm: Warm | None) -> Iterator[None]:
    """The same for one test of a module whose other ranks are new processes."""
    with ranks_forked(warm):
        yield


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks") / "two")
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(4, tmp_path_factory.mktemp("ranks") / "four")
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def eight_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(8, tmp_path_factory.mktemp("ranks") / "eight")
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets: $WORLDSIZE_SHARED/data, or shared/data beside the checkout."""
    root = Path(os.environ.get("WORLDSIZE_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip("the shared data sets are not on this machine (set WORLDSIZE_SHARED)")
    return root / "data"
