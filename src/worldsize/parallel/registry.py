"""The strategies by name. Add one: write its file, then name its class here."""

from __future__ import annotations

from worldsize.errors import unknown
from worldsize.parallel.ddp import DistributedDataParallel
from worldsize.parallel.single import SingleDevice
from worldsize.parallel.strategy import Strategy

STRATEGIES: tuple[type[Strategy], ...] = (SingleDevice, DistributedDataParallel)


def names() -> list[str]:
    """Return the strategies' names, as `parallel.strategy` takes them."""
    return [strategy.name for strategy in STRATEGIES]


def find(name: str) -> type[Strategy]:
    """Return the strategy of that name. Raises UserError with the nearest name and the whole list."""
    for strategy in STRATEGIES:
        if strategy.name == name:
            return strategy
    raise unknown("parallel.strategy", name, [*names(), "auto"])
