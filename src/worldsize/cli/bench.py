"""`worldsize bench`: how fast a model answers, by each way to keep its weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from worldsize.cli.arguments import JsonOption, ThreadsOption, WhichOption, use_threads
from worldsize.errors import UserError

if TYPE_CHECKING:
    from worldsize.bench.records import BenchResult
    from worldsize.inference.open_model import OpenedModel

METHODS = "fp32,bf16,int8"
LENGTH = "A number, or a range that requests draw from: 16-96."
LIMIT = "Milliseconds that a good request keeps."


def bench(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder, a checkpoint, an exported or a Hugging Face folder.",
            show_default=False,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", metavar="NAME", help="Instead of MODEL: gpt2, small or tiny, with random weights."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="A,B",
            help="How weights are kept, in turns. Unset: fp32,bf16,int8, or what MODEL was quantized with.",
            show_default=False,
        ),
    ] = None,
    prompt_tokens: Annotated[str, typer.Option("--prompt-tokens", metavar="N", help=LENGTH)] = "128",
    new_tokens: Annotated[str, typer.Option("--new-tokens", metavar="N", help=LENGTH)] = "128",
    batch: Annotated[
        str, typer.Option("--batch", metavar="N,M", help="Rows of fixed batches; '' for none.")
    ] = "1,4,16",
    concurrency: Annotated[
        str, typer.Option("--concurrency", metavar="N,M", help="Requests in flight in a closed loop.")
    ] = "",
    rate: Annotated[
        str, typer.Option("--rate", metavar="R,S", help="Requests a second that arrive as a Poisson process.")
    ] = "",
    requests: Annotated[int, typer.Option("--requests", metavar="N", help="Of each load, a repeat.")] = 32,
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="Rounds in which all methods take turns.")] = 3,
    slo_ttft_ms: Annotated[
        float | None, typer.Option("--slo-ttft-ms", metavar="T", help=f"To the first token. {LIMIT}")
    ] = None,
    slo_tpot_ms: Annotated[
        float | None, typer.Option("--slo-tpot-ms", metavar="T", help=f"Per output token. {LIMIT}")
    ] = None,
    slo_e2el_ms: Annotated[
        float | None, typer.Option("--slo-e2el-ms", metavar="T", help=f"To the last token. {LIMIT}")
    ] = None,
    chunk: Annotated[
        int, typer.Option("--chunk", metavar="N", help="Prompt tokens between two tokens of others.")
    ] = 128,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Decode by torch.compile's graphs; the warm-up takes minutes.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of prompts, lengths and arrivals.")] = 0,
    which: WhichOption = "newest",
    threads: ThreadsOption = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write bench.json and bench.html there.", show_default=False),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Say how fast a model answers, by each way to keep its weights.

    \b
    worldsize bench out/run                                        batches of 1, 4 and 16, in fp32, bf16 and int8
    worldsize bench --shape gpt2 --method fp32,int8 --batch 1      speed needs no trained weights
    worldsize bench out/run --batch '' --concurrency 1,4,16        requests that join and leave a running batch
    worldsize bench out/run --batch '' --rate 0.5,2 --slo-ttft-ms 500 --slo-tpot-ms 50 --out out/bench

    Methods take turns in every round, and the memory's and the products' own speeds are measured among them.
    """
    from worldsize.bench.quality import quality_rows
    from worldsize.bench.records import Objective
    from worldsize.bench.run import Plan
    from worldsize.bench.run import bench as measure
    from worldsize.bench.workload import Lengths

    use_threads(threads)
    opened = _opened(model, shape, which)
    plan = Plan(
        methods=_list(_methods(opened, method), str, "--method", "names such as fp32,int8"),
        prompt=Lengths.parse(prompt_tokens, "--prompt-tokens"),
        new=Lengths.parse(new_tokens, "--new-tokens"),
        batches=_list(batch, int, "--batch", "whole numbers such as 1,4,16"),
        concurrencies=_list(concurrency, int, "--concurrency", "whole numbers such as 1,4,16"),
        rates_per_s=_list(rate, float, "--rate", "requests a second such as 0.5,2"),
        num_requests=requests,
        num_repeats=repeats,
        seed=seed,
        objective=Objective(ttft_ms=slo_ttft_ms, tpot_ms=slo_tpot_ms, e2el_ms=slo_e2el_ms),
        chunk=chunk,
        compiled=compile_,
    )
    if not plan.methods:
        raise UserError("--method is empty. Give one or more, e.g. --method fp32,int8.")
    beside = [folder for folder in (model, model.parent if model else None, out) if folder is not None]
    quality = quality_rows(beside) if shape is None else []
    result = measure(opened, plan, quality=quality, random_weights=shape is not None, say=_say)
    if out is not None:
        _write(result, out)
    if json_:
        print(result.model_dump_json(indent=1))
        return
    from rich.console import Console

    from worldsize.report.bench_table import WIDTH, tables

    console = Console()
    if console.width < WIDTH and not console.is_terminal:
        console = Console(width=WIDTH)
    for table in tables(result):
        console.print(table)


T = TypeVar("T", str, int, float)


def _list(text: str, kind: type[T], option: str, allowed: str) -> list[T]:
    """Return what commas separate, each once. Raises UserError for what is not of its kind."""
    try:
        return list(dict.fromkeys(kind(part.strip()) for part in text.split(",") if part.strip()))
    except ValueError:
        raise UserError(f"{option} is {text!r}, but must be {allowed}.") from None


def _opened(model: Path | None, shape: str | None, which: str) -> OpenedModel:
    from worldsize.inference.open_model import open_model
    from worldsize.inference.shapes import random_model

    if (model is None) == (shape is None):
        raise UserError("give either MODEL or --shape: worldsize bench out/run, or worldsize bench --shape gpt2.")
    return open_model(model, which) if model is not None else random_model(shape or "")


def _methods(opened: OpenedModel, given: str | None) -> str:
    """Return what to measure: a quantized folder holds its weights in one way only."""
    return (opened.quantized or METHODS) if given is None else given


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _write(result: BenchResult, out: Path) -> None:
    from worldsize.cli.report_output import write
    from worldsize.report.bench_document import bench_document
    from worldsize.report.html import page

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}. Give another --out.") from error
    write(out / "bench.json", result.model_dump_json(indent=1) + "\n")
    write(out / "bench.html", page(bench_document(result)))
    print(f"wrote {out / 'bench.json'} and {out / 'bench.html'}", file=sys.stderr)
