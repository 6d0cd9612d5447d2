"""Extra steps after training that say what the exchange costs and what the clock costs, interleaved with plain ones.

They run at learning rate 0, so they do all the work of a step and leave the weights as they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from worldsize.launch.progress import Progress
from worldsize.measure.clock import NullClock, StepClock
from worldsize.parallel.context import RankContext
from worldsize.parallel.local_sgd import period_of
from worldsize.train.running import Running

FULL, UNMEASURED, WITHOUT_EXCHANGE = "full", "unmeasured", "without_exchange"


def one_step(running: Running, step: int, clock: StepClock, *, exchange: bool = True) -> None:
    """Run one whole step at learning rate 0, with the same marks as the training loop."""
    device = running.context.device
    clock.start()
    share = running.feed.share(step)
    clock.mark("data_wait_s")
    if device.type != "cpu":
        share = share.to(device)
        clock.mark("host_to_device_s")
    running.strategy.step(share.micro_batches, 0.0, clock, exchange=exchange)
    clock.stop()


def probe(running: Running) -> dict[str, list[float]]:
    """Time each variant once a round, its place in the round moving on; return seconds by variant, one a round.

    All ranks start a step together (a barrier outside the timed part), since without an exchange nothing else keeps
    them in step. Where ranks exchange every k steps alone, a round takes k steps and gives their mean. A strategy that
    cannot leave its exchange out has no such variant. Called on every rank; synchronises the device at both ends of
    each round.
    """
    context, period = running.context, period_of(running.config)
    num_rounds = whole_periods(running.config.measure.probe_rounds, period) // period
    running.where.stage = "probing"
    variants: dict[str, Callable[[int], None]] = {
        FULL: lambda step: one_step(running, step, running.clock),
        UNMEASURED: lambda step: one_step(running, step, NullClock()),
    }
    if context.world_size > 1 and running.strategy.can_skip_exchange:
        variants[WITHOUT_EXCHANGE] = lambda step: one_step(running, step, running.clock, exchange=False)
    order = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    step = running.config.train.steps
    for round_index in range(num_rounds):
        running.say(Progress("probing", round_index, num_rounds))
        turn = round_index % len(order)
        for name in order[turn:] + order[:turn]:
            seconds[name].append(_timed_s(variants[name], range(step, step + period), context))
            step += period
        running.clock.window()
    return seconds


def whole_periods(num_steps: int, period: int) -> int:
    """Return at least `num_steps` steps that hold each part of a period equally often."""
    return -(-num_steps // period) * period


def _timed_s(run: Callable[[int], None], steps: Sequence[int], context: RankContext) -> float:
    """Return the mean seconds of consecutive steps."""
    on_cuda = context.device.type == "cuda"
    context.barrier()
    if on_cuda:
        torch.cuda.synchronize(context.device)
    began_s = time.perf_counter()
    for step in steps:
        run(step)
    if on_cuda:
        torch.cuda.synchronize(context.device)
    return (time.perf_counter() - began_s) / len(steps)
