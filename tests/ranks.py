"""Real gloo ranks that tests share: started once a session, each runs the functions that tests send it."""

from __future__ import annotations

import multiprocessing as mp
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TIMEOUT_S = 180
PRELOADED = [
    "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.pipelining", "worldsize.train.run",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("bert", "gpt2", "llama")),
]  # fmt: skip
"""What is imported once, in the process that all ranks are forks of, as far as it is installed."""


class Ranks:
    """A process group of `world_size` ranks with one thread each."""

    def __init__(self, world_size: int, rendezvous: Path) -> None:
        self.world_size = world_size
        self._rendezvous = rendezvous
        self._starts = 0
        self._start()

    def _start(self) -> None:
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._starts += 1
        meeting = f"{self._rendezvous}.{self._starts}"
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(self.world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.world_size, meeting, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call a module-level function as function(rank, world_size, *args) on every rank; return their answers.

        Where one fails, all are started anew, since its peers may still wait for it.
        """
        try:
            return self._answers(function, *args)
        except BaseException:
            for process in self._processes:
                process.kill()
            self._start()
            raise

    def _answers(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        for pipe in self._pipes:
            pipe.send((function, args))
        waiting = dict(zip(self._pipes, range(self.world_size), strict=True))
        answers: dict[int, Any] = {}
        while waiting:
            ready = wait(list(waiting), timeout=TIMEOUT_S)
            assert ready, f"{function.__name__}: no answer from ranks {list(waiting.values())} within {TIMEOUT_S} s"
            for pipe in ready:
                assert isinstance(pipe, Connection)
                rank = waiting.pop(pipe)
                failure, answers[rank] = pipe.recv()
                assert failure is None, f"on rank {rank}:\n{failure}"  # at once: its peers wait for it
        return [answers[rank] for rank in range(self.world_size)]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(timeout=10)
            process.kill()


def _serve(rank: int, world_size: int, rendezvous: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    _share_groups()
    while (request := pipe.recv()) is not None:
        function, args = request
        try:
            pipe.send((None, function(rank, world_size, *args)))
        except Exception:
            pipe.send((traceback.format_exc(), None))
    os._exit(0)  # taking a hundred groups apart one by one takes longer than many a test


def _share_groups() -> None:
    """Let later functions have the process groups of earlier ones.

    Each group has three threads of gloo's that never quite sleep: a hundred groups took half a core. They cannot be
    ended one by one either, since DTensor remembers them by name.
    """
    import torch.distributed as dist

    from worldsize.parallel import mesh

    groups: dict[Any, Any] = {}
    new_group, init_device_mesh = dist.new_group, mesh.init_device_mesh

    def shared_group(ranks: list[int] | None = None, **settings: Any) -> Any:
        key = tuple(ranks or ()), *settings.items()
        if key not in groups:
            groups[key] = new_group(ranks, **settings)
        return groups[key]

    def shared_mesh(device_type: str, degrees: tuple[int, ...], *, mesh_dim_names: tuple[str, ...]) -> Any:
        key = device_type, degrees, mesh_dim_names
        if key not in groups:
            groups[key] = init_device_mesh(device_type, degrees, mesh_dim_names=mesh_dim_names)
        return groups[key]

    dist.new_group = shared_group
    mesh.init_device_mesh = shared_mesh
