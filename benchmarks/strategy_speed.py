"""A strategy's step against the same technique written with its engine alone, on two ranks:
`python -m benchmarks.strategy_speed --out FOLDER [--rounds N] [--only ddp,fsdp] [--json]`.

Both live in the same two processes, one pinned core each, and take turns: a round gives each a block of steps on the
same batches, with a barrier before. A block takes as long as its slower rank. Compared are ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from worldsize.config.load import load, resolve
from worldsize.config.schema import Config
from worldsize.measure.statistics import measured

GOAL = 0.97
"""Within 3 %."""
WORLD_SIZE = 2
STEPS_PER_BLOCK = 4
WARMUP_BLOCKS = 2
NUM_MICRO = 4
SAMPLES_PER_RANK = 8
VOCABULARY = 1024


@dataclass(frozen=True)
class Technique:
    """One row: the strategy's settings, and the engine's own loop."""

    engine: str
    overrides: tuple[str, ...]
    arguments: tuple[int, ...] = ()


TECHNIQUES = {
    "ddp": Technique("ddp", ("parallel.strategy=ddp",)),
    "fsdp": Technique("fsdp", ("parallel.strategy=fsdp",)),
    "deepspeed ZeRO-1": Technique("deepspeed", ("parallel.strategy=deepspeed", "parallel.zero_stage=1")),
    "pipeline 1F1B": Technique(
        "pipeline",
        (
            "parallel.strategy=pipeline", "parallel.pipeline_schedule=1f1b",
            f"train.micro_batch={WORLD_SIZE * SAMPLES_PER_RANK // NUM_MICRO}", "parallel.stage_balance=equal",
        ),
        (NUM_MICRO,),
    ),
}  # fmt: skip


def config_for(technique: Technique) -> Config:
    values = {
        "model.d_model": 256, "model.num_layers": 4, "model.num_heads": 4, "model.context_length": 128,
        "model.vocab_size": VOCABULARY, "model.tied_head": False, "device.kind": "cpu",
        "train.global_batch": WORLD_SIZE * SAMPLES_PER_RANK,
    }  # fmt: skip
    overrides = [*(f"{key}={json.dumps(value)}" for key, value in values.items()), *technique.overrides]
    return resolve(load(None, overrides), WORLD_SIZE, None).config


def ours(config: Config, rank: int) -> Callable[[Any, Any], None]:
    """Return one step by the strategy, with the clock that a run has."""
    import torch

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import clock_for
    from worldsize.models.build import build
    from worldsize.parallel.context import RankContext
    from worldsize.parallel.layout import layout_for
    from worldsize.parallel.registry import strategies

    layout = layout_for(config.parallel, WORLD_SIZE)
    context = RankContext(rank, WORLD_SIZE, rank, torch.device("cpu"), layout)
    strategy = strategies()[config.parallel.strategy]()
    strategy.prepare(build(config.model, 0, "cpu"), config, context)
    clock = clock_for(context.device)
    global_tokens = config.train.global_batch * config.model.context_length
    cut = config.train.micro_batch

    def step(tokens: torch.Tensor, targets: torch.Tensor) -> None:
        clock.start()
        pieces = zip(tokens.split(cut or len(tokens)), targets.split(cut or len(targets)), strict=True)
        strategy.step([Batch(x, y, y.numel(), global_tokens) for x, y in pieces], 1e-3, clock)
        clock.stop()

    return step


def plain(technique: Technique, config: Config) -> Callable[[Any, Any], None]:
    """Return one step by the engine alone."""
    from benchmarks import engines
    from worldsize.models.build import build

    make: Callable[..., Callable[[Any, Any], None]] = getattr(engines, technique.engine)
    return make(build(config.model, 0, "cpu"), *technique.arguments)


def serve(rank: int, technique: Technique, num_rounds: int, rendezvous: str, answers: Any) -> None:
    """Time both contenders on one rank; rank 0 answers with the slower rank's seconds of each block, by contender."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE)}
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    from worldsize.train.allocator import tune_allocator

    tune_allocator()
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD_SIZE)
    config = config_for(technique)
    contenders = {"ours": ours(config, rank), "plain": plain(technique, config)}
    num_samples = SAMPLES_PER_RANK * WORLD_SIZE // _data_ranks(config)
    ids = torch.randint(VOCABULARY, (num_samples, config.model.context_length + 1))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_index in range(WARMUP_BLOCKS + num_rounds):
        for name in list(contenders)[:: 1 if round_index % 2 else -1]:
            dist.barrier()
            began_s = time.perf_counter()
            for _ in range(STEPS_PER_BLOCK):
                contenders[name](ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            took_s = torch.tensor(time.perf_counter() - began_s)
            dist.all_reduce(took_s, dist.ReduceOp.MAX)
            if round_index >= WARMUP_BLOCKS:
                seconds[name].append(float(took_s))
    if rank == 0:
        answers.put(seconds)
    dist.barrier()
    dist.destroy_process_group()


def _data_ranks(config: Config) -> int:
    from worldsize.parallel.layout import layout_for

    return layout_for(config.parallel, WORLD_SIZE).num_data_ranks


def compare(name: str, num_rounds: int) -> dict[str, Any]:
    """Return one technique's seconds a step and the ratio of speeds, ours over plain."""
    spawn = get_context("spawn")
    answers = spawn.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            spawn.Process(target=serve, args=(rank, TECHNIQUES[name], num_rounds, f"{folder}/meet", answers))
            for rank in range(WORLD_SIZE)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    if any(rank.exitcode for rank in ranks):
        raise RuntimeError(f"{name}: a rank ended with exit code {[rank.exitcode for rank in ranks]}")
    seconds: dict[str, list[float]] = answers.get()
    ratios = [plain_s / ours_s for ours_s, plain_s in zip(seconds["ours"], seconds["plain"], strict=True)]
    steps = {who: measured([s / STEPS_PER_BLOCK for s in own]).model_dump() for who, own in seconds.items()}
    return {"technique": name, "goal": GOAL, "step_time_s": steps, "speed_over_plain": measured(ratios).model_dump()}


def text(row: dict[str, Any]) -> str:
    ratio, steps = row["speed_over_plain"], row["step_time_s"]
    met = "met" if ratio["median"] >= row["goal"] else "NOT MET"
    return (
        f"  {row['technique']:17} ours {steps['ours']['median'] * 1e3:6.1f} ms, engine alone "
        f"{steps['plain']['median'] * 1e3:6.1f} ms a step: {ratio['median']:5.3f} × "
        f"[{ratio['low']:.3f}, {ratio['high']:.3f}]   goal {row['goal']:.2f}: {met}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--rounds", type=int, default=12, help="blocks a contender")
    parser.add_argument("--only", help=f"techniques, separated by commas, of: {', '.join(TECHNIQUES)}")
    parser.add_argument("--json", action="store_true", help="print the JSON twin instead of a table")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    shown = sys.stderr if given.json else sys.stdout
    print("a strategy's step against its engine alone, two ranks, one core each", file=shown)
    rows = []
    for name in given.only.split(",") if given.only else TECHNIQUES:
        rows.append(compare(name, given.rounds))
        print(text(rows[-1]), file=shown, flush=True)
    twin = {"load_average": os.getloadavg(), "results": rows}
    (given.out / "strategy_speed.json").write_text(json.dumps(twin, indent=1) + "\n")
    if given.json:
        print(json.dumps(twin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
