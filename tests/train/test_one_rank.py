"""Steps that a profiler looks at are those of the config's own task and model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from worldsize.config.load import load, resolve
from worldsize.data.task import prepare_task
from worldsize.train.one_rank import training_step

SMALL = [
    "model.num_layers=1", "model.d_model=32", "model.num_heads=2", "model.context_length=16", "train.global_batch=4",
    "device.kind=cpu",
]  # fmt: skip


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_classifiers_first_loss_is_that_of_a_guess_among_its_classes(num_classes: int, tmp_path: Path) -> None:
    rows = "".join(f"text number {i},{i % num_classes}\n" for i in range(60))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    source = [f"data.source={tmp_path / 'rows.csv'}", f"data.cache_dir={tmp_path}"]
    loaded = load(None, [*SMALL, "data.task=classification", *source])
    data = prepare_task(loaded.config.data)
    run_step, _ = training_step(resolve(loaded, 1, data.vocab_size, data.num_classes).config, data)
    first: Any = run_step()
    assert float(first.loss_sum) / 4 == pytest.approx(math.log(num_classes), abs=0.2)
