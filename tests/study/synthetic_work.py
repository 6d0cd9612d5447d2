"""The work of a synthetic run: its config, its machine, its samples and losses, and what its phases cost."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsize.config.schema import Config
from worldsize.measure.statistics import measured
from worldsize.records import PHASES, Environment, ExposedCommunication, RankSummary, StepRow

NUM_PARAMETERS = 1_000_000
CONTEXT_LENGTH = 128
NUM_CORPUS_SAMPLES = 4096
DERIVED = (
    "model.num_kv_heads",
    "model.d_ff",
    "model.vocab_size",
    "parallel.strategy",
    "parallel.dp",
    "train.micro_batch",
)


def phases_of(
    world_size: int, global_batch: int, *, compute_s: float = 0.1, exposed_s: float = 0.006
) -> dict[str, float]:
    """Phases of one step under the cost model: `compute_s` is one device's, for a global batch of 64."""
    return {
        "data_wait_s": 0.0005,
        "host_to_device_s": 0.0,
        "compute_s": compute_s * global_batch / 64 / world_size,
        "exposed_communication_s": exposed_s if world_size > 1 else 0.0,
        "bubble_s": 0.0,
        "optimizer_s": 0.004,
        "other_s": 0.0005,
    }


def losses_of(num_steps: int, seed: int, global_batch: int) -> list[float]:
    """A loss curve that depends on what training depends on, and not on the layout."""
    wiggle = np.random.default_rng([seed, global_batch]).normal(0, 0.02, num_steps)
    return [float(2.5 + 3.0 * np.exp(-step / 15) + wiggle[step]) for step in range(num_steps)]


def sample_ids(step: int, global_batch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, step, global_batch]).permutation(NUM_CORPUS_SAMPLES)[:global_batch]


def digest(step: int, ids: np.ndarray) -> int:
    """Sum of a 128-bit hash per (step, id): adds over ranks and steps."""
    pairs = (hashlib.blake2b(f"{step}:{i}".encode(), digest_size=16).digest() for i in ids.tolist())
    return sum(int.from_bytes(pair, "big") for pair in pairs) % 2**128


def make_config(
    world_size: int, global_batch: int, num_steps: int, seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A resolved config tree; `settings` are dotted keys."""
    tree = Config().model_dump()
    filled: dict[str, Any] = {
        "model.num_kv_heads": 4,
        "model.d_ff": 512,
        "model.vocab_size": 256,
        "parallel.strategy": "single" if world_size == 1 else "ddp",
        "parallel.dp": world_size,
        "train.micro_batch": global_batch // world_size,
        "train.global_batch": global_batch,
        "train.steps": num_steps,
        "train.seed": seed,
        "device.kind": "cpu",
    }
    for key, value in (filled | dict(settings)).items():
        section, field = key.split(".")
        tree[section][field] = value
    return Config.model_validate(tree).model_dump(mode="json")


def make_environment(world_size: int, changes: Mapping[str, Any]) -> Environment:
    values: dict[str, Any] = {
        "hostname": "testhost",
        "platform": "Linux-6.1",
        "python": "3.11.7",
        "torch": "2.13.0",
        "worldsize": "0.1.0",
        "code_version": "c0de" * 8,
        "cpu_name": "Test CPU @ 3 GHz",
        "num_cores": 8,
        "memory_bytes": 16 * 2**30,
        "device_kind": "cpu",
        "device_names": ["Test CPU @ 3 GHz"] * world_size,
        "backend": None if world_size == 1 else "gloo",
        "threads_per_rank": 1,
        "pinned_cores": [[rank] for rank in range(world_size)],
    }
    return Environment(**(values | dict(changes)))


def rank_digest(rank: int, world_size: int, num_steps: int, global_batch: int, seed: int, *, all_data: bool) -> int:
    total = 0
    for step in range(num_steps):
        ids = sample_ids(step, global_batch, seed)
        total += digest(step, ids if all_data else np.array_split(ids, world_size)[rank])
    return total


def summary(rank: int, rows: Sequence[StepRow], samples_digest: int) -> RankSummary:
    timed = [row for row in rows if not row.warmup]
    step_time_s = float(np.median([row.wall_s for row in timed]))
    means = {name: float(np.mean([row.phases_s[name] for row in timed])) for name in PHASES}
    scale = step_time_s / sum(means.values())
    return RankSummary(
        rank=rank,
        step_time_s=step_time_s,
        phases_s={name: seconds * scale for name, seconds in means.items()},
        num_samples=sum(row.num_samples for row in rows),
        num_tokens=sum(row.num_tokens for row in rows),
        samples_digest=f"{samples_digest % 2**128:032x}",
        peak_memory_bytes=400 * 2**20 + rank,
        matmul_flop_per_s=9e11,
    )


def exposed_three_ways(phases: Mapping[str, float]) -> ExposedCommunication:
    exposed_s = phases["exposed_communication_s"]
    near = [exposed_s * factor for factor in (0.97, 0.99, 1.0, 1.01, 1.03)]
    return ExposedCommunication(clock_s=measured(near), ablation_s=measured(near), trace_s=measured(near))


def norm_of(noise_scale: float | None, num_samples: int) -> float:
    """Norm of a gradient averaged over samples: |G|² = 1, tr(Σ) = noise scale (McCandlish et al. 2018, A.1)."""
    return float(np.sqrt(1 + (noise_scale or 0.0) / num_samples))
