"""A result as `worldsize bench` writes it, of round figures."""

from __future__ import annotations

from worldsize.bench.latency import Timeline, latencies, serving
from worldsize.bench.records import BenchResult, Limits, LoadRow, MethodInfo, Objective, QualityRow, SpeedRow
from worldsize.records import Measured


def spread(middle: float) -> Measured:
    return Measured(
        median=middle, low=0.98 * middle, high=1.02 * middle, samples=[0.98 * middle, middle, 1.02 * middle]
    )


def speed(method: str, batch: int, tokens_per_s: float) -> SpeedRow:
    return SpeedRow(
        method=method,
        batch=batch,
        ttft_ms=latencies([40.0, 42.0]),
        tpot_ms=spread(1e3 * batch / tokens_per_s),
        itl_ms=latencies([10.0, 11.0, 30.0]),
        prefill_tokens_per_s=spread(3000),
        decode_tokens_per_s=spread(tokens_per_s),
        request_tokens_per_s=spread(tokens_per_s / batch),
        requests_per_s=spread(0.5),
        decode_bytes_per_s=spread(1.2e10),
        share_of_bandwidth=spread(0.4),
        share_of_matmul=spread(0.6),
    )


def load(method: str, concurrency: int | None, rate: float | None, gap_s: float) -> LoadRow:
    lines = [Timeline(16, 0.0, [0.1, 0.1 + gap_s, 0.1 + 2 * gap_s]), Timeline(16, 0.5, [0.7, 0.7 + gap_s])]
    return LoadRow(
        method=method,
        arrivals="closed loop" if rate is None else "Poisson",
        concurrency=concurrency,
        request_rate_per_s=rate,
        serving=serving(lines, 2.0, Objective(ttft_ms=150)),
    )


def result(*, int8_tokens_per_s: float = 90.0, quality: bool = True) -> BenchResult:
    methods = [
        MethodInfo(
            name=name, compiled=False, weight_bytes=size, read_bytes_per_step=size - 1000, cache_bytes=2**20,
            load_s=0.1, first_s=0.2, matmul_type=name,
        )
        for name, size in (("fp32", 400 * 2**20), ("int8", 100 * 2**20))
    ]  # fmt: skip
    rows = [
        QualityRow(method="fp32", folder="m", size_bytes=400 * 2**20, figure="perplexity", value=20.0),
        QualityRow(
            method="int8", folder="q", size_bytes=100 * 2**20, figure="perplexity", value=20.1, low=20.05, high=20.2
        ),
    ]
    return BenchResult(
        model="out/run",
        num_parameters=100_000_000,
        random_weights=False,
        cpu_name="ACME CPU",
        num_threads=1,
        torch="2.13",
        worldsize="0.1",
        load_average=(1.5, 1.0, 1.0),
        prompt_tokens=(16, 96),
        new_tokens=(16, 64),
        num_repeats=3,
        seed=0,
        objective=Objective(ttft_ms=150),
        num_slots=16,
        chunk=128,
        peak_memory_bytes=2**30,
        limits=Limits(
            bandwidth_bytes_per_s=3e10,
            bandwidth_buffer_bytes=2**28,
            matmul_flop_per_s={"fp32": 1e11, "int8": 4e11},
            huge_pages="madvise",
            huge_page_bytes=500 * 2**20,
        ),
        methods=methods,
        speeds=[speed("fp32", 1, 30.0), speed("int8", 1, int8_tokens_per_s)],
        loads=[
            load(name, concurrency, rate, gap)
            for name, gap in (("fp32", 0.1), ("int8", 0.03))
            for concurrency, rate in ((1, None), (4, None), (None, 0.5))
        ],
        quality=rows if quality else [],
    )
