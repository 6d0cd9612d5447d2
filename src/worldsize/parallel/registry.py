"""The strategies by name. To add one: write its file, then name its class here."""

from __future__ import annotations

from worldsize.parallel.allreduce import AllReduce
from worldsize.parallel.ddp import DistributedDataParallel
from worldsize.parallel.deepspeed import DeepSpeed
from worldsize.parallel.fsdp import FullyShardedDataParallel
from worldsize.parallel.local_sgd import LocalSGD
from worldsize.parallel.pipeline import ModelParallel, Pipeline
from worldsize.parallel.single import SingleDevice
from worldsize.parallel.strategy import Strategy
from worldsize.parallel.tensor import TensorParallel


def strategies() -> dict[str, type[Strategy]]:
    """Return every strategy under the name that `parallel.strategy` takes."""
    known: tuple[type[Strategy], ...] = (
        SingleDevice,
        AllReduce,
        DistributedDataParallel,
        FullyShardedDataParallel,
        DeepSpeed,
        LocalSGD,
        TensorParallel,
        Pipeline,
        ModelParallel,
    )
    return {strategy.name: strategy for strategy in known}


def cuts_model(strategy: str) -> bool:
    """Return whether the strategy of that name spreads one forward over ranks; 'auto' never stands for such a one."""
    known = strategies().get(strategy)
    return known is not None and not known.whole_forward
