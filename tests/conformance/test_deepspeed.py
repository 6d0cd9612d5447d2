"""What DeepSpeed's stages leave on a rank between steps, and that its gathered moments are one device's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.steps import config_of, train
from tests.ranks import Ranks


@pytest.mark.parametrize(
    ("settings", "weights", "moments"),
    [
        ({"zero_stage": 0}, 1.0, 1.0),
        ({"zero_stage": 1}, 1.0, 0.5),
        ({"zero_stage": 2}, 1.0, 0.5),
        ({"zero_stage": 3}, 0.5, 0.5),
    ],
)
def test_a_rank_holds_its_part(settings: dict[str, Any], weights: float, moments: float, two_ranks: Ranks) -> None:
    config = {"train": {"steps": 2}}
    single = train(0, 1, config_of(**config))
    whole = single["held_bytes"] / 3  # weights and two moments of each
    for one in two_ranks.run(train, config_of(parallel={"strategy": "deepspeed", **settings}, **config)):
        assert one["held_bytes"] == pytest.approx(whole * (weights + 2 * moments), rel=0.02)
