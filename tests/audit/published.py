"""The examples' numbers, and clean data sets made up from a small cost model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldsize.audit.paths import audit_paths
from worldsize.audit.records import Audit, Comparison, Finding, Row

EXAMPLES = Path(__file__).parents[2] / "examples" / "audit"


def audited(letter: str) -> Audit:
    """Audit the example whose name begins with the letter."""
    [path] = EXAMPLES.glob(f"{letter}-*.csv")
    return audit_paths([str(path)])


def named(audit: Audit) -> dict[str, Finding]:
    """Return every finding of an audit by its rule."""
    found = [*audit.findings, *(f for comparison in audit.comparisons for f in comparison.findings)]
    return {finding.rule: finding for finding in found}


def would_be(comparison: Comparison) -> list[str]:
    return [correction.text for correction in comparison.corrections]


def clean_rows(seed: int) -> list[Row]:
    """Rows of an honest study: the same work, a total rate, noise of a percent, communication explains the loss."""
    rng = np.random.default_rng(seed)
    compute_s, samples, global_batch = float(rng.uniform(100, 3000)), int(rng.integers(50, 500)) * 2048, 256
    serial_s, hop_s = compute_s * float(rng.uniform(0, 0.02)), compute_s * float(rng.uniform(0.005, 0.05))
    final, repeats, context = float(rng.uniform(1.5, 6)), int(rng.integers(1, 4)), 512
    rows = []
    for devices in (1, 2, 4, 8)[: int(rng.integers(2, 5))]:
        for _ in range(repeats):
            pace = 1 + float(rng.normal(0, 0.005))
            communication_s = 0.0 if devices == 1 else hop_s * (devices - 1) / devices * pace
            share_s = compute_s / devices * pace
            time_s = share_s + communication_s + serial_s
            loss = final * (1 + float(rng.normal(0, 0.001)))
            values: dict[str, Any] = {
                "where": f"made up {len(rows)}", "devices": devices, "time_s": time_s, "samples": samples,
                "samples_per_rank": samples // devices, "tokens": samples * context, "context_length": context,
                "tokens_per_s": samples * context / time_s, "throughput_is": "total", "global_batch": global_batch,
                "per_device_batch": global_batch // devices, "steps": samples // global_batch, "warmup_steps": 20,
                "communication_s": communication_s, "compute_s": share_s, "first_loss": 10.8, "last_loss": loss,
                "validation_loss": loss * 1.02, "model": "gpt2", "precision": "bf16", "learning_rate": 3e-4,
                "per_rank_times_s": [time_s * (1 - 0.004 * rank / devices) for rank in range(devices)],
                "step_time_s": time_s / (samples // global_batch),
                "step_times_s": list(time_s / (samples // global_batch) * (1 + rng.normal(0, 0.02, 12))),
            }  # fmt: skip
            drop = [
                name
                for name in values
                if name not in ("where", "devices", "time_s") and rng.random() < 0.3 * (seed % 3)
            ]
            rows.append(Row.model_validate({name: value for name, value in values.items() if name not in drop}))
    return rows
