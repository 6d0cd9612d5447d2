"""Names of columns: ours, and what other tools call the same thing (docs/reference/audit-format.md lists them)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from worldsize.audit.records import Row

COLUMNS = tuple(name for name in Row.model_fields if name != "where")

ALIASES: dict[str, tuple[str, ...]] = {
    "devices": ("world_size", "gpus", "num_gpus", "n_gpus", "ngpus", "gpu_count", "num_devices", "nproc",
                "num_processes", "ranks", "workers"),
    "time_s": ("time", "wall_time", "walltime", "runtime", "total_time", "elapsed", "elapsed_time", "train_time",
               "training_time", "train_runtime", "total_train_time", "total_training_time", "duration"),
    "epoch_time_s": ("epoch_time", "time_per_epoch", "train_time_per_epoch", "train_times_per_epoch", "avg_epoch_time",
                     "epoch_duration", "train_epoch_time"),
    "step_time_s": ("step_time", "time_per_step", "avg_step_time", "iteration_time", "iter_time"),
    "micro_step_time_s": ("micro_step_time",),
    "per_rank_times_s": ("per_rank_times", "rank_times", "per_rank_time"),
    "step_times_s": ("step_times",),
    "sampled_time_s": ("sampled_time",),
    "communication_s": ("communication", "comm_time", "communication_time", "comm"),
    "compute_s": ("compute", "compute_time"),
    "steps": ("num_steps", "optimizer_steps", "train_steps", "total_steps", "max_steps"),
    "accumulation": ("gradient_accumulation", "gradient_accumulation_steps", "grad_accum", "accumulation_steps"),
    "epochs": ("num_epochs", "num_train_epochs"),
    "samples": ("num_samples", "samples_seen", "train_samples", "total_samples"),
    "samples_per_rank": ("num_samples_per_rank",),
    "tokens": ("num_tokens", "total_tokens", "tokens_seen", "num_input_tokens_seen"),
    "global_batch": ("global_batch_size", "effective_batch_size", "total_batch_size"),
    "per_device_batch": ("per_device_batch_size", "batch_size_per_gpu"),
    "warmup_steps": ("num_warmup_steps", "lr_warmup_steps"),
    "tokens_per_s": ("tokens_per_sec", "tokens_per_second", "train_tokens_per_second", "tok_s", "tokens/s",
                     "tokens/sec"),
    "samples_per_s": ("samples_per_sec", "samples_per_second", "train_samples_per_second", "images_per_sec",
                      "samples/s", "samples/sec"),
    "throughput": ("avg_throughput", "throughput_per_epoch"),
    "claimed_speedup": ("speedup",),
    "last_loss": ("loss", "train_loss", "training_loss", "final_loss", "avg_loss", "train_losses"),
    "validation_loss": ("val_loss", "eval_loss", "valid_loss", "test_loss", "val_losses"),
    "data": ("dataset", "dataset_name"),
    "model": ("model_name", "model_name_or_path"),
    "context_length": ("seq_len", "seq_length", "sequence_length", "block_size"),
    "precision": ("dtype", "mixed_precision"),
    "schedule": ("lr_scheduler", "lr_scheduler_type"),
    "learning_rate": ("lr",),
    "device": ("gpu", "gpu_type", "gpu_name", "device_name"),
    "strategy": ("method", "parallelism", "mode"),
    "run": ("name", "run_name", "experiment", "config_name"),
}  # fmt: skip
"""Ours → theirs. A plain `batch_size` is left out on purpose: nobody can tell whose batch it is."""

EPOCH = "epoch"
"""Marks a file with one row an epoch (audit/epochs.py)."""

_THEIRS = {alias: name for name, aliases in ALIASES.items() for alias in aliases} | {name: name for name in COLUMNS}
_UNITS = (("_milliseconds", 1e-3), ("_msec", 1e-3), ("_ms", 1e-3), ("_seconds", 1.0), ("_secs", 1.0), ("_sec", 1.0),
          ("_s", 1.0))  # fmt: skip


def canonical(name: str) -> tuple[str, float] | None:
    """Return our name for a column and the factor to our unit, or None when it is none that is read."""
    plain = re.sub(r"[^a-z0-9/]+", "_", name.strip().lower()).strip("_")
    if plain in _THEIRS:
        return _THEIRS[plain], 1.0
    for suffix, factor in _UNITS:
        stem = _THEIRS.get(plain.removesuffix(suffix)) if plain.endswith(suffix) else None
        if stem and stem.endswith("_s") and not stem.endswith("_per_s"):
            return stem, factor
    return (EPOCH, 1.0) if plain == EPOCH else None


def not_read(names: Iterable[str]) -> str:
    """Return the sentence about columns that are not read, each with the column it may have been meant for."""
    told = []
    for name in names:
        close = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.75)
        told.append(f"{name!r} (is {close[0]!r} meant?)" if close else repr(name))
    return f"not read: {', '.join(told)}"
