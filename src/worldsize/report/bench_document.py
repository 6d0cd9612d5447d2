"""`worldsize bench` as a report: size, quality and speed of every method next to each other. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from worldsize.bench.records import BenchResult, Latencies, LoadRow
from worldsize.records import Measured
from worldsize.report.bench_table import headline, load_name, remarks, verdicts
from worldsize.report.document import Block, Document, Facts, Lines, Numbers, Plates, Section, Sheet, Terms, Words
from worldsize.report.method import Definition
from worldsize.report.numbers import MIB, PERCENT, Unit
from worldsize.report.rows import Column, Number, Table, number_column, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MS, PER_S = Unit(1.0, "ms"), Unit(1.0, "1/s")
TOKENS_PER_S = Unit(1.0, "tokens/s")

TERMS = [
    Definition("TTFT", "first token − arrival", "Time to the first token: waiting for a slot and the prompt included."),
    Definition(
        "TPOT",
        "(last − first token) / (tokens − 1)",
        "Time per output token: one number a request, the first left out.",
    ),
    Definition("ITL", "gap between two tokens", "Inter-token latency: every gap of every request, so stalls show."),
    Definition("E2EL", "last token − arrival", "End-to-end latency of a request."),
    Definition("Goodput", "requests that keep the objective / duration", "Completed ones; every given limit counts."),
    Definition(
        "Share of memory bandwidth",
        "bytes of weights a step reads / step time / measured read bandwidth",
        "How near decoding comes to what memory allows. The cache of keys and values is read besides.",
    ),
    Definition(
        "Share of matmul rate",
        "FLOP of a prompt / time to take it in / measured rate",
        "How near taking prompts in comes to what products alone reach, in the method's own type.",
    ),
]


def bench_document(result: BenchResult) -> Document:
    """Return the report."""
    numbers = Numbers()
    sections = [
        Section("findings", "What it says", [Lines(verdicts(result) or ["One method was run; nothing is compared."])]),
        Section("methods", "Methods", _methods(result, numbers)),
    ]
    if result.speeds:
        sections.append(Section("batches", "Fixed batches", [numbers.sheet(_speeds(result))]))
    if result.loads:
        sections.append(Section("loads", "Concurrent requests", _loads(result, numbers)))
    sections.append(Section("method", "Method", [Terms(TERMS)]))
    sections.append(Section("machine", "Machine", [Lines(remarks(result)[len(verdicts(result)) :]), _facts(result)]))
    lengths = f"{_range(result.prompt_tokens)} prompt tokens, {_range(result.new_tokens)} new ones"
    return Document(f"Inference benchmark of {result.model}", headline(result), lengths, sections)


def _methods(result: BenchResult, numbers: Numbers) -> list[Block]:
    infos = result.methods
    blocks: list[Block] = [
        numbers.sheet(
            Table(
                "Size in memory, and what one step of decoding reads of it.",
                [
                    words("name", "method", [info.name for info in infos]),
                    _plain("weight_bytes", "weights", MIB, [info.weight_bytes for info in infos]),
                    _plain("read_bytes_per_step", "read a step", MIB, [info.read_bytes_per_step for info in infos]),
                    _plain("cache_bytes", "cache", MIB, [info.cache_bytes for info in infos]),
                    _plain("load_s", "packing", Unit(1.0, "s"), [info.load_s for info in infos]),
                    _plain("first_s", "first two tokens", Unit(1.0, "s"), [info.first_s for info in infos]),
                ],
            )
        )
    ]
    if not result.quality:
        why = "The weights are random." if result.random_weights else "No report of `worldsize quantize` was found."
        return [*blocks, Words(f"No quality is known: speed says nothing of it. {why}", muted=True)]
    return [*blocks, _quality(result, numbers), _quality_plate(result, numbers)]


def _quality(result: BenchResult, numbers: Numbers) -> Sheet:
    rows = result.quality
    return numbers.sheet(
        Table(
            "Quality on held-out data, as `worldsize quantize` measured it on the saved folder.",
            [
                words("method", "method", [row.method for row in rows]),
                _plain("size_bytes", "size on disk", MIB, [row.size_bytes for row in rows]),
                words("figure", "figure", [row.figure for row in rows]),
                _plain("value", "value", Unit(1.0, ""), [row.value for row in rows]),
            ],
        )
    )


def _quality_plate(result: BenchResult, numbers: Numbers) -> Plates:
    caption = "Size on disk against quality: further left is smaller. Bars are intervals, where they are known."
    return Plates(
        [numbers.plate("quality_by_size", "Quality against size", caption, caption, _drawer("quality_by_size", result))]
    )


def _speeds(result: BenchResult) -> Table:
    rows = result.speeds

    def medians(key: str, title: str, unit: Unit, of: Sequence[Measured]) -> Column:
        return number_column(key, title, unit, of, [""] * len(rows))

    return Table(
        "All prompts in, then all rows a token a step: medians over repeats, with 95 % bootstrap intervals beneath.",
        [
            words("method", "method", [row.method for row in rows]),
            words("batch", "batch", [str(row.batch) for row in rows]),
            _plain("ttft_ms.p50", "TTFT p50", MS, [row.ttft_ms.p50 for row in rows]),
            medians("tpot_ms", "TPOT", MS, [row.tpot_ms for row in rows]),
            _plain("itl_ms.p50", "ITL p50", MS, [row.itl_ms.p50 for row in rows]),
            _plain("itl_ms.p99", "ITL p99", MS, [row.itl_ms.p99 for row in rows]),
            medians("decode_tokens_per_s", "decode", TOKENS_PER_S, [row.decode_tokens_per_s for row in rows]),
            medians("share_of_bandwidth", "of memory", PERCENT, [row.share_of_bandwidth for row in rows]),
            medians("prefill_tokens_per_s", "prefill", TOKENS_PER_S, [row.prefill_tokens_per_s for row in rows]),
            medians("share_of_matmul", "of matmul", PERCENT, [row.share_of_matmul for row in rows]),
        ],
    )


def _loads(result: BenchResult, numbers: Numbers) -> list[Block]:
    rows = result.loads
    limits = result.objective.model_dump(exclude_none=True)
    objective = ", ".join(f"{name.removesuffix('_ms').upper()} at most {limit:g} ms" for name, limit in limits.items())
    good = f" A request is good with {objective}." if objective else " No objective was given, so none is good or bad."

    def figures(key: str, title: str, unit: Unit, of: Callable[[LoadRow], Number | None], why: str = "") -> Column:
        return number_column(key, title, unit, [of(row) for row in rows], [why] * len(rows))

    one_token = "every request has one token"
    table = Table(
        f"Requests that join and leave a running batch of {result.num_slots} slots.{good}",
        [
            words("method", "method", [row.method for row in rows]),
            words("load", "load", [load_name(row) for row in rows]),
            figures("ttft_ms.p50", "TTFT p50", MS, lambda r: r.serving.ttft_ms.p50),
            figures("ttft_ms.p99", "TTFT p99", MS, lambda r: r.serving.ttft_ms.p99),
            figures("tpot_ms.p50", "TPOT p50", MS, lambda r: _at(r.serving.tpot_ms, "p50"), one_token),
            figures("itl_ms.p50", "ITL p50", MS, lambda r: _at(r.serving.itl_ms, "p50"), one_token),
            figures("itl_ms.p99", "ITL p99", MS, lambda r: _at(r.serving.itl_ms, "p99"), one_token),
            figures("output_throughput_tokens_per_s", "output", TOKENS_PER_S, _output),
            figures("request_throughput_per_s", "requests", PER_S, lambda r: r.serving.request_throughput_per_s),
            figures(
                "request_goodput_per_s", "goodput", PER_S, lambda r: r.serving.request_goodput_per_s,
                "no objective was given",
            ),
        ],
    )  # fmt: skip
    caption = "Load against latency: median and 99th percentile of the gaps between tokens and of the first token."
    plates = [
        numbers.plate("latency_by_load", "Latency against load", caption, caption, _drawer("latency_by_load", result))
    ]
    return [numbers.sheet(table), Plates(plates)]


def _at(values: Latencies | None, percentile: str) -> float | None:
    return None if values is None else float(getattr(values, percentile))


def _output(row: LoadRow) -> float:
    return row.serving.output_throughput_tokens_per_s


def _plain(key: str, title: str, unit: Unit, values: Sequence[float]) -> Column:
    return number_column(key, title, unit, values, [""] * len(values))


def _drawer(name: str, result: BenchResult) -> Callable[[], Figure]:
    def draw() -> Figure:
        from worldsize.report.figures import inference

        figure: Figure = getattr(inference, name)(result)
        return figure

    return draw


def _facts(result: BenchResult) -> Facts:
    return Facts(
        [
            ("Processor", f"{result.cpu_name or 'not known'}, {result.num_threads} thread(s)"),
            ("Versions", f"torch {result.torch}, worldsize {result.worldsize}"),
            ("Rounds", f"{result.num_repeats}; every method has its turn in each. Seed {result.seed}"),
            ("Prefill", f"in chunks of {result.chunk} tokens"),
        ]
    )


def _range(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"
