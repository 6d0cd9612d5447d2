"""The report of `worldsize bench`: what it says, and that every format can set it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.bench.results import result
from worldsize.bench.records import BenchResult
from worldsize.report.bench_document import bench_document
from worldsize.report.bench_table import WIDTH, tables, verdicts
from worldsize.report.html import page
from worldsize.report.markdown import markdown


def printed(found: BenchResult) -> str:
    console = Console(file=io.StringIO(), width=WIDTH)
    for part in tables(found):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("tokens_per_s", "said"),
    [
        (90.0, "int8 is faster: 3.00 × fp32's tokens/s."),
        (15.0, "int8 is slower: 0.50 × fp32's tokens/s."),
        (30.5, "int8 is not told apart from fp32."),
    ],
)
def test_it_never_says_faster_where_it_is_not(tokens_per_s: float, said: str) -> None:
    found = result(int8_tokens_per_s=tokens_per_s)
    assert verdicts(found) == [f"Decoding at batch 1, {said}"]
    assert said in markdown(bench_document(found))


def test_the_table_fits_and_holds_the_figures() -> None:
    text = printed(result())
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    for figure in ("33.3", "30.0", "40 %", "60 %", "4 at a time", "0.5/s", "TTFT ≤ 150 ms", "ACME CPU", "0.500"):
        assert figure in text


def test_the_page_sets_size_quality_and_speed_beside_each_other() -> None:
    text = page(bench_document(result()))
    for word in ("perplexity", "Quality against size", "Latency against load", "Goodput", "int8 is faster"):
        assert word in text
    assert text.count("<svg") == 2


def test_without_quality_the_page_says_so() -> None:
    found = result(quality=False)
    assert "No report of" in page(bench_document(found))
    random = found.model_copy(update={"random_weights": True, "loads": []})
    text = page(bench_document(random))
    assert "weights are random" in text
    assert "<svg" not in text


def test_a_result_survives_its_file() -> None:
    assert BenchResult.model_validate_json(result().model_dump_json()) == result()
