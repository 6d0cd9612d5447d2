"""What DeepSpeed's stages leave on a rank between steps, and that its gathered moments are one device's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.steps import config_of, train
from tests.ranks import Ranks


@pytest.mark.parametrize(
    ("stage", "weights", "updated", "moments"),
    [(0, 1.0, 0.0, 1.0), (1, 1.0, 0.5, 0.5), (2, 1.0, 0.5, 0.5), (3, 0.5, 0.5, 0.5)],
)
def test_a_rank_holds_its_part(stage: int, weights: float, updated: float, moments: float, two_ranks: Ranks) -> None:
    """From stage 1 on the engine updates fp32 weights of its own, this rank's part of them, beside those in use."""
    config: dict[str, Any] = {"train": {"steps": 2}}
    single = train(0, 1, config_of(**config))
    whole = single["held_bytes"] / 3  # weights and two moments of each
    for one in two_ranks.run(train, config_of(parallel={"strategy": "deepspeed", "zero_stage": stage}, **config)):
        assert one["held_bytes"] == pytest.approx(whole * (weights + updated + 2 * moments), rel=0.02)
