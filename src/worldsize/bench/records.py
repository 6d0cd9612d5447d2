"""What `worldsize bench` writes and prints. Torch-free.

Latencies are in milliseconds and named as in vLLM's serving benchmark and MLPerf inference; docs/explain/latency.md
defines them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from worldsize.records import Measured, Record


class Latencies(Record):
    """A distribution: percentiles with linear interpolation between neighbours, and every value."""

    mean: float
    std: float = Field(description="of the values as they are, not an estimate for more of them (divided by n)")
    p50: float
    p90: float
    p95: float
    p99: float
    values: list[float]


class Objective(Record):
    """What a request has to keep to count as good (service level objective)."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None


class Serving(Record):
    """Requests as their senders saw them."""

    num_requests: int = Field(description="completed")
    duration_s: float = Field(description="from the first arrival to the last token")
    num_prompt_tokens: int
    num_output_tokens: int
    ttft_ms: Latencies = Field(description="from a request's arrival to its first token, waiting included")
    tpot_ms: Latencies | None = Field(
        description="a request's (last - first token) / (tokens - 1); requests of one token have none"
    )
    itl_ms: Latencies | None = Field(description="every gap between two tokens of a request, of all requests together")
    e2el_ms: Latencies = Field(description="from a request's arrival to its last token")
    request_throughput_per_s: float
    output_throughput_tokens_per_s: float = Field(description="new tokens of all requests over the duration")
    total_throughput_tokens_per_s: float = Field(description="prompt and new tokens of all requests over the duration")
    request_output_tokens_per_s: float = Field(description="median over requests: new tokens over the request's e2el")
    request_goodput_per_s: float | None = Field(description="completed requests that kept the objective, a second")
    good_share: float | None = Field(description="of completed requests, those that kept the objective")


class LoadRow(Record):
    """Concurrent requests on one method's engine."""

    method: str
    arrivals: Literal["closed loop", "Poisson"]
    concurrency: int | None = Field(description="closed loop: requests in flight at any time")
    request_rate_per_s: float | None = Field(description="Poisson: mean arrivals a second, whether served or not")
    serving: Serving


class SpeedRow(Record):
    """A fixed batch of one method: all prompts in, then all rows one token a step. A sample a repeat."""

    method: str
    batch: int
    ttft_ms: Latencies = Field(description="of every row: prompts are taken in one after the other")
    tpot_ms: Measured = Field(description="a repeat's decoding time over its steps")
    itl_ms: Latencies = Field(description="every decoding step")
    prefill_tokens_per_s: Measured = Field(description="prompt tokens of all rows over the time to take them in")
    decode_tokens_per_s: Measured = Field(description="new tokens of all rows but their first, over the decoding time")
    request_tokens_per_s: Measured = Field(description="decode_tokens_per_s / batch")
    requests_per_s: Measured = Field(description="rows over prefill and decoding time together")
    decode_bytes_per_s: Measured = Field(description="bytes of weights that a step reads, over a step's time")
    share_of_bandwidth: Measured = Field(description="decode_bytes_per_s over the read bandwidth of this run")
    share_of_matmul: Measured = Field(description="prefill's matmul FLOP/s over the matmul rate of this run")


class MethodInfo(Record):
    """One way to keep the weights."""

    name: str
    compiled: bool
    weight_bytes: int = Field(description="of the network in memory, buffers included, shared ones once")
    read_bytes_per_step: int = Field(description="weights that one decoding step reads: lookups are left out")
    cache_bytes: int = Field(description="keys and values of all slots, filled or not")
    load_s: float = Field(description="packing the weights")
    first_s: float = Field(description="the first prompt and its first two tokens: caches cold, kernels not yet made")
    matmul_type: str = Field(description="type of the product whose rate prefill is measured against")


class Limits(Record):
    """What the machine does at its best, measured in turns with the methods."""

    bandwidth_bytes_per_s: float = Field(description="best read of a buffer far larger than the caches")
    bandwidth_buffer_bytes: int
    matmul_flop_per_s: dict[str, float] = Field(description="best rate of a few linear layers, by type")
    huge_pages: str = Field(description="the kernel's transparent_hugepage setting, or 'not known'")
    huge_page_bytes: int | None = Field(description="of this process that lie in huge pages, weights included")


class QualityRow(Record):
    """What a `worldsize quantize` report beside the model says of a method."""

    method: str
    folder: str
    size_bytes: int
    figure: str = Field(description="what the quality is, e.g. 'perplexity'")
    value: float
    low: float | None = None
    high: float | None = None


class BenchResult(Record):
    """What `worldsize bench --json` prints, and writes to bench.json."""

    model: str
    num_parameters: int
    random_weights: bool = Field(description="true: a shape without training, for speed alone")
    cpu_name: str | None
    num_threads: int
    torch: str
    worldsize: str
    load_average: tuple[float, float, float] = Field(description="of the machine at the end")
    prompt_tokens: tuple[int, int] = Field(description="fewest and most of a request")
    new_tokens: tuple[int, int]
    num_repeats: int
    seed: int
    objective: Objective
    num_slots: int
    chunk: int = Field(description="prompt tokens that one turn takes in at most")
    peak_memory_bytes: int = Field(description="of the process, all methods together")
    limits: Limits
    methods: list[MethodInfo]
    speeds: list[SpeedRow]
    loads: list[LoadRow]
    quality: list[QualityRow]
