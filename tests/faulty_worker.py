"""A rank's process with a fault of our own: `python tests/faulty_worker.py FAULT`, in place of the real worker.

Each fault is one that has been seen to spoil published scaling numbers, or one that ends runs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

AT_STEP = 7
RANK = os.environ.get("RANK", "0")


def note_the_moment() -> None:
    """Write down when the fault happens, in the file that FAULT_MOMENT names: seconds of the host's monotonic clock."""
    if path := os.environ.get("FAULT_MOMENT"):
        Path(path).write_text(repr(time.monotonic()))


def before_step(action: Callable[[], None], *, on_rank: str = "1") -> None:
    """Run `action` on one rank just before step AT_STEP."""
    from worldsize.train.feed import Feed

    original = Feed.share

    def share(self: Feed, step: int) -> Any:
        if step == AT_STEP and on_rank == RANK:
            note_the_moment()
            action()
        return original(self, step)

    Feed.share = share  # type: ignore[method-assign]


def repeat_data() -> None:
    """Every rank takes all samples of a step, as a loader without a distributed sampler does."""
    from worldsize.data.sampler import Sampler

    Sampler.shard = lambda self, ids, rank, num_ranks: ids  # type: ignore[method-assign]


def own_seeds() -> None:
    """Every rank seeds weights and sample order with its own number."""
    from worldsize.data import sampler
    from worldsize.train import run

    build, init = run.build, sampler.Sampler.__init__
    run.build = lambda model, seed, device: build(model, seed + int(RANK), device)

    def seeded(self: Any, num_samples: int, seed: int) -> None:
        init(self, num_samples, seed + int(RANK))

    sampler.Sampler.__init__ = seeded  # type: ignore[method-assign]


def slow_rank() -> None:
    """Rank 1 computes half as long again as it needs: far beyond what a busy machine does to either rank."""
    from worldsize.train.replica import Replica

    original = Replica.forward_backward

    def forward_backward(self: Replica, micro_batches: Any) -> Any:
        began_s = time.thread_time()
        loss_sum = original(self, micro_batches)
        if RANK == "1":
            until_s = time.thread_time() + 0.5 * (time.thread_time() - began_s)
            while time.thread_time() < until_s:
                pass
        return loss_sum

    Replica.forward_backward = forward_backward  # type: ignore[method-assign]


def raise_error() -> None:
    def fail() -> None:
        raise RuntimeError("the cat sat on the keyboard")

    before_step(fail)


def kill() -> None:
    before_step(lambda: os.kill(os.getpid(), signal.SIGKILL))


def kill_once() -> None:
    """Rank 1 dies at step AT_STEP of its first life; the file that KILLED_ONCE names tells the second."""
    marker = Path(os.environ["KILLED_ONCE"])

    def action() -> None:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    before_step(action)


def hang() -> None:
    before_step(lambda: time.sleep(600))


def nan() -> None:
    """Rank 1's weights turn into NaN."""
    from worldsize.train.replica import Replica

    original, calls = Replica.update, [0]

    def update(self: Replica, learning_rate: float) -> Any:
        calls[0] += 1
        norm = original(self, learning_rate)
        if calls[0] == AT_STEP and RANK == "1":
            note_the_moment()
            next(self.model.parameters()).data.fill_(float("nan"))
        return norm

    Replica.update = update  # type: ignore[method-assign]


FAULTS = {f.__name__: f for f in (repeat_data, own_seeds, slow_rank, raise_error, kill, kill_once, hang, nan)}


def main() -> int:
    from worldsize.launch.pinning import pin
    from worldsize.train import worker

    pin(int(os.environ["LOCAL_RANK"]), 1)  # before torch is imported by the fault
    FAULTS[sys.argv[1]]()
    worker.pin = lambda local_rank, threads: [int(RANK)]  # type: ignore[assignment]
    return worker.main()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
