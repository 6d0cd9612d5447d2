"""`worldsize evaluate`: how well a model does on data that it has not seen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import JsonOption, MethodOption, ModelArgument, ThreadsOption, WhichOption, use_threads

if TYPE_CHECKING:
    from worldsize.inference.evaluate import Quality


def evaluate(
    model: ModelArgument,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="Text, as data.source; unset = the run's held-out text.",
            show_default=False,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride", metavar="N", help="Tokens between windows; unset = half the context.", show_default=False
        ),
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", metavar="N", help="Read only so much of --data.", show_default=False)
    ] = None,
    which: WhichOption = "newest",
    method: MethodOption = None,
    threads: ThreadsOption = 1,
    json_: JsonOption = False,
) -> None:
    """Say how well a model predicts a text.

    \b
    worldsize evaluate out/run                                   on the text that its run kept from training
    worldsize evaluate out/run --data book.txt --stride 64
    worldsize evaluate gpt2-folder --data python-stdlib --max-bytes 100000 --method bf16 --json

    Perplexity depends on the tokenizer; bits per byte compares models of different tokenizers.
    """
    from worldsize.inference.engine import Engine
    from worldsize.inference.evaluate import WINDOWS_AT_ONCE, quality_of
    from worldsize.inference.evaluate import evaluate as losses_of
    from worldsize.inference.held_out import text_for
    from worldsize.inference.open_model import open_model

    use_threads(threads)
    opened = open_model(model, which)
    text = text_for(opened, data, max_bytes)
    engine = Engine(opened, method_name=method, num_slots=WINDOWS_AT_ONCE)
    stride = max(1, engine.length // 2) if stride is None else stride
    losses = losses_of(engine, text, stride=stride, on_progress=_progress if sys.stderr.isatty() else None)
    quality = quality_of(
        losses, text, model=str(opened.path), method=engine.method_name, context_length=engine.length, stride=stride
    )
    print(quality.model_dump_json(indent=1) if json_ else _lines(quality))


def _progress(share: float) -> None:
    print(f"\revaluating  {share:4.0%}", end="\n" if share >= 1 else "", file=sys.stderr, flush=True)


def _lines(quality: Quality) -> str:
    lines = (
        ("model", f"{quality.model}, {quality.method}"),
        ("text", f"{quality.data}: {quality.num_tokens:,} tokens, {quality.num_bytes:,} bytes"),
        ("windows", f"{quality.context_length} tokens, {quality.stride} apart"),
        ("loss", f"{quality.loss:.4f} ± {quality.loss_stderr:.4f} nats a token"),
        ("perplexity", f"{quality.perplexity:,.3f}"),
        ("bits", f"{quality.bits_per_byte:.4f} a byte"),
    )
    return "\n".join(f"{name:<12}{text}" for name, text in lines)
