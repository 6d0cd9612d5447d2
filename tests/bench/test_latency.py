"""Latency metrics against figures worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.bench.latency import Timeline, latencies, serving
from worldsize.bench.records import Objective

FIRST = Timeline(num_prompt_tokens=3, arrived_s=1.0, token_at_s=[1.5, 1.6, 1.9])
"""First token after 500 ms; gaps of 100 and 300 ms; 900 ms in all."""
SECOND = Timeline(num_prompt_tokens=5, arrived_s=2.0, token_at_s=[2.2])
"""One token, after 200 ms."""


def test_one_request() -> None:
    assert FIRST.ttft_ms == pytest.approx(500)
    assert FIRST.itl_ms == pytest.approx([100, 300])
    assert FIRST.tpot_ms == pytest.approx(200)
    assert FIRST.e2el_ms == pytest.approx(900)
    assert SECOND.tpot_ms is None
    assert SECOND.itl_ms == []


def test_two_requests_together() -> None:
    found = serving([FIRST, SECOND], 2.0, Objective(ttft_ms=300))
    assert found.ttft_ms.mean == pytest.approx(350)
    assert found.ttft_ms.std == pytest.approx(150)
    assert found.tpot_ms is not None
    assert found.tpot_ms.values == pytest.approx([200]), "a request of one token has no time per output token"
    assert found.itl_ms is not None
    assert found.itl_ms.p50 == pytest.approx(200)
    assert found.itl_ms.p99 == pytest.approx(298)  # 100 + 0.99 · 200
    assert found.itl_ms.p90 == pytest.approx(280)
    assert found.e2el_ms.values == pytest.approx([900, 200])
    assert found.request_throughput_per_s == 1.0
    assert found.output_throughput_tokens_per_s == 2.0
    assert found.total_throughput_tokens_per_s == 6.0
    assert found.request_output_tokens_per_s == pytest.approx((3 / 0.9 + 1 / 0.2) / 2)
    assert found.request_goodput_per_s == 0.5
    assert found.good_share == 0.5


@pytest.mark.parametrize(
    ("objective", "num_good"),
    [
        (Objective(ttft_ms=600), 2),
        (Objective(tpot_ms=150), 1),
        (Objective(tpot_ms=250), 2),
        (Objective(ttft_ms=600, tpot_ms=150), 1),
        (Objective(e2el_ms=100), 0),
        (Objective(ttft_ms=600, tpot_ms=250, e2el_ms=800), 1),
    ],
)
def test_a_good_request_keeps_every_limit(objective: Objective, num_good: int) -> None:
    assert serving([FIRST, SECOND], 1.0, objective).request_goodput_per_s == num_good


def test_without_an_objective_nothing_is_good_or_bad() -> None:
    found = serving([SECOND], 1.0, Objective())
    assert found.request_goodput_per_s is found.good_share is found.tpot_ms is found.itl_ms is None


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        latencies([])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_percentiles_stay_in_order_and_within_the_values(values: list[float]) -> None:
    found = latencies(values)
    ordered = [min(values), found.p50, found.p90, found.p95, found.p99, max(values)]
    assert all(low <= high + 1e-9 * abs(high) for low, high in pairwise(ordered))
    assert found.values == values
    assert found.p50 == pytest.approx(float(np.median(values)))
