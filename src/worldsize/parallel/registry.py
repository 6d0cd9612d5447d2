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
        TensorParallel,
        Pipeline,
        ModelParallel,
        DeepSpeed,
        LocalSGD,
    )
    return {strategy.name: strategy for strategy in known}
