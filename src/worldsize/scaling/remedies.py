"""What to do about an exchange that costs more than it brings: the remedies, and what each should give. Torch-free.

A remedy is a list of config overrides on top of a cell's own config. Some change the arithmetic (gradients rounded or
approximated, weights averaged now and then, another batch): then the loss after equally many tokens has to be looked
at, not only the time for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from worldsize.config.schema import Config
from worldsize.models.cost import describe
from worldsize.parallel.layout import Layout
from worldsize.parallel.registry import strategies
from worldsize.scaling.break_even import exposed_at
from worldsize.scaling.pair import GROWS_WITH_BATCH, Pair
from worldsize.study.files import Run

MORE_BATCH = 4
LOCAL_STEPS = (16, 12, 10, 8, 5, 4)
"""Steps between averages, the first of these that divides the run's steps."""


@dataclass(frozen=True)
class Remedy:
    """One change: the overrides that make it, and what it does to a step's exchange."""

    name: str
    what: str
    overrides: tuple[str, ...]
    wire_factor: float = 1.0
    """How long a link is busy with one exchange, relative to now."""
    exchanges_per_sample: float = 1.0
    """How many exchanges and updates the same samples take, relative to now."""


def remedies_for(config: Config, world_size: int) -> list[Remedy]:
    """Return what can be tried on a data-parallel cell; none for others. `config` is the cell's, resolved."""
    if config.parallel.strategy not in ("auto", "ddp", "allreduce") or world_size == 1:
        return []
    return [*_compressed(config, world_size), *_larger_batches(config, world_size), *_local_sgd(config, world_size)]


def _compressed(config: Config, world_size: int) -> list[Remedy]:
    parallel = config.parallel
    if parallel.gradient_compression != "none":
        return []
    whole = _wire_bytes(config, world_size)
    found = []
    for kind, name, what in (
        ("bf16", "bf16-gradients", "gradients rounded to bf16 for the exchange"),
        ("int4", "int4-gradients", "gradients rounded to 4 bits for the exchange, the rest kept for the next step"),
        ("powersgd", "powersgd", f"PowerSGD of rank {parallel.powersgd_rank}: gradients as low-rank factors"),
    ):
        smaller = config.model_copy(update={"parallel": parallel.model_copy(update={"gradient_compression": kind})})
        overrides = ("parallel.strategy=ddp", f"parallel.gradient_compression={kind}")
        found.append(Remedy(name, what, overrides, _wire_bytes(smaller, world_size) / whole))
    return found


def _wire_bytes(config: Config, world_size: int) -> float:
    """Return the bytes that one rank receives in a step of ddp: of a ring's all-reduce, or of all ranks' messages."""
    counts = strategies()["ddp"].communication(config, Layout(dp=world_size), describe(config.model))
    parts = {"all_reduce": 2 * (world_size - 1) / world_size, "all_gather": world_size - 1}
    return sum(parts[count.kind] * count.payload_bytes for count in counts)


def _larger_batches(config: Config, world_size: int) -> list[Remedy]:
    """The same samples in fewer steps. The learning rate grows with the root of the batch, as suits Adam.

    Malladi et al., On the SDEs and scaling rules for adaptive gradient algorithms (2022). Warm-up keeps its tokens.
    """
    train, optimizer = config.train, config.optimizer
    factor = next((k for k in (MORE_BATCH, 2) if train.steps % k == 0 and train.steps > k * _least_steps(config)), None)
    if factor is None:
        return []
    micro = train.micro_batch or train.global_batch // world_size
    rate = optimizer.learning_rate * math.sqrt(factor)
    overrides = (
        f"train.global_batch={train.global_batch * factor}",
        f"train.steps={train.steps // factor}",
        f"optimizer.learning_rate={rate:.6g}",
        f"optimizer.warmup_steps={math.ceil(optimizer.warmup_steps / factor)}",
        *([f"train.eval_every_steps={max(1, train.eval_every_steps // factor)}"] if train.eval_every_steps else []),
    )
    batch = f"{factor} times the global batch, learning rate × {math.sqrt(factor):.3g}"
    return [
        Remedy(
            "accumulation", f"{batch}, in {factor} times the micro batches", (*overrides, f"train.micro_batch={micro}"),
            exchanges_per_sample=1 / factor,
        ),
        Remedy(
            "larger-batch", f"{batch}, in micro batches {factor} times as large",
            (*overrides, f"train.micro_batch={micro * factor}"), exchanges_per_sample=1 / factor,
        ),
    ]  # fmt: skip


def _least_steps(config: Config) -> int:
    return config.measure.warmup_steps + 1


def _local_sgd(config: Config, world_size: int) -> list[Remedy]:
    """Steps of one's own between averages: as many as divide the run, so that it ends on an average.

    AdamW divides by the gradient's noise. That of a rank's own share is √n times as large as that of the whole batch,
    which makes steps as much shorter; a longer rate makes up for it, and averaging n ranks takes the longer steps' own
    noise away again.
    """
    train = config.train
    every = next((k for k in LOCAL_STEPS if train.steps % k == 0 and train.steps - config.measure.warmup_steps >= k), 0)
    if "local_sgd" not in strategies() or not every:
        return []
    longer = math.sqrt(world_size)
    overrides = (
        "parallel.strategy=local_sgd",
        f"parallel.local_steps={every}",
        f"optimizer.learning_rate={config.optimizer.learning_rate * longer:.6g}",
    )
    steps = f"every {every} steps, learning rate × {longer:.3g}"
    outer = ("parallel.outer_learning_rate=0.7", "parallel.outer_momentum=0.9")  # Douillard et al. 2023, section 3.1
    return [
        Remedy("local-sgd", f"local SGD: weights averaged {steps}", overrides, wire_factor=1 / every),
        Remedy("diloco", f"DiLoCo: an outer step with momentum {steps}", (*overrides, *outer), wire_factor=1 / every),
    ]


def reckoned(remedy: Remedy, pair: Pair, wire_s: float) -> float:
    """Return how much faster than the baseline the cell should be with the remedy, for equally many samples.

    The link's busy time changes as the remedy says; compute for the same samples stays, so does what else a step
    costs, and computing what is exchanged is taken to cost nothing.
    """
    cell = pair.cell
    assert pair.cell.break_even is not None
    exposed_s = exposed_at(cell.break_even.exposed_s if cell.break_even else 0.0, wire_s, remedy.wire_factor)
    grows_s = sum(cell.phases_s.get(name, 0.0) for name in GROWS_WITH_BATCH)
    fixed_s = pair.step_s - pair.cell.break_even.exposed_s - grows_s
    step_s = grows_s + (fixed_s + exposed_s) * remedy.exchanges_per_sample
    return pair.ideal_s * pair.num_times_devices / step_s


def proposals(pair: Pair, runs: Sequence[Run]) -> list[str]:
    """Return for a cell that is slower than its baseline what each remedy should give, best first."""
    found = pair.cell.break_even
    if found is None or found.wire_s is None:
        return []
    wire_s = found.wire_s
    remedies = remedies_for(runs[0].config, pair.cell.world_size)
    gains = sorted(((reckoned(remedy, pair, wire_s), remedy) for remedy in remedies), key=lambda item: -item[0])
    if not gains:
        return []
    told = "; ".join(f"{remedy.what}: {gain:.2f}x" for gain, remedy in gains)
    where = "".join(f" at {key}={value}" for key, value in pair.cell.vary.items())
    return [
        f"Remedies for {pair.cell.world_size} devices{where}, with what each should give for the same tokens if "
        f"computing what it exchanges costs nothing: {told}. --try-remedies runs them, with the loss beside."
    ]
