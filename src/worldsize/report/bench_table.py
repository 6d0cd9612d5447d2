"""`worldsize bench` as text for a terminal: one table of fixed batches, one of loads, and what they are measured by."""

from __future__ import annotations

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from worldsize.bench.records import BenchResult, Latencies, LoadRow, SpeedRow
from worldsize.report.numbers import show
from worldsize.scaling.wording import percent

WIDTH = 100
"""Columns that the tables need at most."""
NONE = "–"


def tables(result: BenchResult) -> list[RenderableType]:
    """Return what is printed, from the top down."""
    parts: list[RenderableType] = [Text(headline(result), style="bold"), _methods(result)]
    if result.speeds:
        parts.append(_speeds(result))
    if result.loads:
        parts.append(_loads(result))
    return [*parts, Text("\n".join(remarks(result)), style="italic")]


def headline(result: BenchResult) -> str:
    """Return which model was run, on what."""
    weights = ", random weights" if result.random_weights else ""
    threads = "1 thread" if result.num_threads == 1 else f"{result.num_threads} threads"
    cpu = result.cpu_name or "a processor that does not say its name"
    return f"{result.model}: {result.num_parameters / 1e6:,.1f} M parameters{weights}, {threads} of {cpu}"


def verdicts(result: BenchResult) -> list[str]:
    """Return, for each batch, which methods decode faster than the first one, and which do not."""
    lines = []
    for batch in dict.fromkeys(row.batch for row in result.speeds):
        first, *others = [row for row in result.speeds if row.batch == batch]
        for row in others:
            ratio = row.decode_tokens_per_s.median / first.decode_tokens_per_s.median
            apart = (
                row.decode_tokens_per_s.low > first.decode_tokens_per_s.high
                or row.decode_tokens_per_s.high < first.decode_tokens_per_s.low
            )
            said = "faster" if ratio > 1 else "slower"
            told = (
                f"{said}: {ratio:.2f} × {first.method}'s tokens/s" if apart else f"not told apart from {first.method}"
            )
            lines.append(f"Decoding at batch {batch}, {row.method} is {told}.")
    return lines


def remarks(result: BenchResult) -> list[str]:
    """Return what the figures are measured against, and what was not quiet."""
    limits = result.limits
    rates = ", ".join(f"{kind} {rate / 1e9:,.0f} GFLOP/s" for kind, rate in limits.matmul_flop_per_s.items())
    pages = NONE if limits.huge_page_bytes is None else f"{limits.huge_page_bytes / 2**20:,.0f} MiB"
    return [
        *verdicts(result),
        f"Memory reads {limits.bandwidth_bytes_per_s / 1e9:.1f} GB/s at best; huge pages: {limits.huge_pages}, "
        f"{pages} of this process lie in them.",
        f"Products at best: {rates}.",
        f"Peak memory of the process with all methods: {result.peak_memory_bytes / 2**20:,.0f} MiB; "
        f"load average {result.load_average[0]:.1f}.",
    ]


def _drawn(title: str, *headings: str) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=title, title_justify="left")
    for index, heading in enumerate(headings):
        drawn.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    return drawn


def _methods(result: BenchResult) -> Table:
    drawn = _drawn(
        "Methods", "method", "weights\nMiB", "read a step\nMiB", "cache\nMiB", "pack\ns", "first 2\ntokens, s"
    )
    for info in result.methods:
        sizes = (info.weight_bytes, info.read_bytes_per_step, info.cache_bytes)
        drawn.add_row(
            info.name + (" (compiled)" if info.compiled else ""),
            *(show(size / 2**20) for size in sizes),
            show(info.load_s),
            show(info.first_s),
        )
    return drawn


def _speeds(result: BenchResult) -> Table:
    title = f"Fixed batches: {result.prompt_tokens[1]} prompt tokens, {result.new_tokens[1]} new ones"
    drawn = _drawn(
        title, "method", "batch", "TTFT\nms", "TPOT\nms", "ITL p50/p90/p99\nms", "decode\ntok/s",
        "of\nmemory", "prefill\ntok/s", "of\nmatmul",
    )  # fmt: skip
    for row in result.speeds:
        drawn.add_row(*_speed_cells(row))
    return drawn


def _speed_cells(row: SpeedRow) -> list[str]:
    return [
        row.method,
        str(row.batch),
        show(row.ttft_ms.p50),
        show(row.tpot_ms.median),
        _percentiles(row.itl_ms),
        show(row.decode_tokens_per_s.median),
        percent(row.share_of_bandwidth.median),
        show(row.prefill_tokens_per_s.median),
        percent(row.share_of_matmul.median),
    ]


def _loads(result: BenchResult) -> Table:
    limits = result.objective.model_dump(exclude_none=True)
    objective = ", ".join(f"{name.removesuffix('_ms').upper()} ≤ {limit:g} ms" for name, limit in limits.items())
    drawn = _drawn(
        f"Continuous batching, {result.num_slots} slots" + (f"; good: {objective}" if objective else ""),
        "method", "load", "TTFT p50/p99\nms", "TPOT p50/p99\nms", "ITL p50/p90/p99\nms", "tok/s", "req/s",
        "good\nreq/s",
    )  # fmt: skip
    for row in result.loads:
        drawn.add_row(*_load_cells(row))
    return drawn


def _load_cells(row: LoadRow) -> list[str]:
    serving = row.serving
    goodput = serving.request_goodput_per_s
    return [
        row.method,
        load_name(row),
        f"{show(serving.ttft_ms.p50)}/{show(serving.ttft_ms.p99)}",
        f"{show(serving.tpot_ms.p50)}/{show(serving.tpot_ms.p99)}" if serving.tpot_ms else NONE,
        _percentiles(serving.itl_ms),
        show(serving.output_throughput_tokens_per_s),
        show(serving.request_throughput_per_s),
        show(goodput) if goodput is not None else NONE,
    ]


def load_name(row: LoadRow) -> str:
    """Return '4 at a time' or '2/s'."""
    return f"{row.concurrency} at a time" if row.concurrency is not None else f"{row.request_rate_per_s:g}/s"


def _percentiles(values: Latencies | None) -> str:
    return "/".join(show(value) for value in (values.p50, values.p90, values.p99)) if values else NONE
