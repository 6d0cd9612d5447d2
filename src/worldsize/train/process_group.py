"""This rank's device, and the process group that it joins and leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from worldsize.config.rules import precision_fits
from worldsize.config.schema import Config, DeviceConfig
from worldsize.errors import UserError
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import Layout


def pick_device(device: DeviceConfig, local_rank: int) -> torch.device:
    """Return this rank's own device. Raises UserError when the config asks for one that is not there."""
    if device.kind == "cpu" or (device.kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "device.kind=cuda, but torch sees no CUDA device here. Use device.kind=cpu, or check the driver."
        )
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU: this host has {torch.cuda.device_count()}. "
            f"Use --nproc {torch.cuda.device_count()} or fewer."
        )
    return torch.device("cuda", local_rank)


@contextmanager
def joined(config: Config, layout: Layout) -> Iterator[RankContext]:
    """Join the process group that RANK, WORLD_SIZE and MASTER_ADDR describe, and leave it at the end.

    One device needs no group. A rendezvous host that does not resolve is an error, never a fallback to localhost.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = pick_device(config.device, local_rank)
    problem = precision_fits(config.train.precision, device.type)
    if problem:
        raise UserError(problem)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    context = RankContext(rank, world_size, local_rank, device, layout)
    if world_size == 1:
        yield context
        return
    timeout = timedelta(seconds=config.device.timeout_s)
    dist.init_process_group(
        backend_for(device),
        timeout=timeout,
        store=_store_of_this_life(timeout),
        rank=rank,
        world_size=world_size,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield context
    finally:
        dist.destroy_process_group()


def _store_of_this_life(timeout: timedelta) -> Store | None:
    """Return torchrun's store under names of this start alone; None where no torchrun keeps one.

    torchrun keeps one store for all its restarts, with the addresses of ranks that have died. Found by those started
    anew, they are waited for in vain (torch 2.13).
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    port = int(os.environ["MASTER_PORT"])
    store = TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=timeout)
    return PrefixStore(f"life{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def backend_for(device: torch.device) -> str:
    """Return the collectives' library for a device."""
    return "nccl" if device.type == "cuda" else "gloo"
