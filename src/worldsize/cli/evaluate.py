"""`worldsize evaluate`: how well a model does on data that it has not seen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import (
    DataOption,
    JsonOption,
    MaxBytesOption,
    MethodOption,
    ModelArgument,
    TargetDataOption,
    ThreadsOption,
    WhichOption,
    use_threads,
)
from worldsize.errors import UserError

if TYPE_CHECKING:
    from worldsize.inference.held_out import Asked
    from worldsize.inference.open_model import OpenedModel
    from worldsize.inference.quality_records import ClassifierQuality, Estimate, Quality, TranslatorQuality

NAME_WIDTH = 20
"""Characters of a class's name in the confusion matrix."""


def evaluate(
    model: ModelArgument,
    data: DataOption = None,
    target_data: TargetDataOption = None,
    max_bytes: MaxBytesOption = None,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride",
            metavar="N",
            help="Of text: tokens between windows; unset = half the context.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows", metavar="N", min=1, help="Judge so many labelled texts or sentences; unset = all.",
            show_default=False,
        ),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(
            "--beams", metavar="N", min=1, help="Of translation: hypotheses kept; unset = as the run did.",
            show_default=False,
        ),
    ] = None,
    which: WhichOption = "newest",
    method: MethodOption = None,
    threads: ThreadsOption = 1,
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """Say how well a model does on data that it has not seen.

    \b
    worldsize evaluate out/run                                   on what its run kept from training
    worldsize evaluate out/run --data book.txt --stride 64
    worldsize evaluate gpt2-folder --data python-stdlib --max-bytes 100000 --method bf16 --json
    worldsize evaluate out/reviews --data more.csv               a classifier: accuracy, macro F1
    worldsize evaluate out/pairs --data test.src --target-data test.tgt --beams 4     BLEU, chrF

    Perplexity depends on the tokenizer; bits per byte compares models of different tokenizers.
    """
    from worldsize.inference.held_out import Asked, task_of
    from worldsize.inference.open_model import open_model

    use_threads(threads)
    opened = open_model(model, which)
    asked = Asked(data, target_data, max_bytes)
    task = task_of(opened)
    _refuse_idle(task, {"--stride": stride, "--rows": rows, "--beams": beams})
    if task == "language_modelling":
        quality = _of_text(opened, asked, stride, method)
        print(quality.model_dump_json(indent=1) if json_ else _text_lines(quality))
    else:
        judged = _of_rows(opened, asked, rows, beams, method)
        print(judged.model_dump_json(indent=1) if json_ else _row_lines(judged))


TAKEN = {"language_modelling": ("--stride",), "classification": ("--rows",), "translation": ("--rows", "--beams")}
"""Options that belong to some tasks only."""


def _refuse_idle(task: str, options: dict[str, int | None]) -> None:
    for option, value in options.items():
        if value is not None and option not in TAKEN[task]:
            raise UserError(f"{option} is of no use with {task.replace('_', ' ')}. Leave it out.")


def _of_text(opened: OpenedModel, asked: Asked, stride: int | None, method: str | None) -> Quality:
    from worldsize.inference.engine import Engine
    from worldsize.inference.evaluate import WINDOWS_AT_ONCE, quality_of
    from worldsize.inference.evaluate import evaluate as losses_of
    from worldsize.inference.held_out import text_for

    text = text_for(opened, asked)
    engine = Engine(opened, method_name=method, num_slots=WINDOWS_AT_ONCE)
    stride = max(1, engine.length // 2) if stride is None else stride
    losses = losses_of(engine, text, stride=stride, on_progress=_progress if sys.stderr.isatty() else None)
    return quality_of(
        losses, text, model=str(opened.path), method=engine.method_name, context_length=engine.length, stride=stride
    )


def _of_rows(
    opened: OpenedModel, asked: Asked, rows: int | None, beams: int | None, method: str | None
) -> ClassifierQuality | TranslatorQuality:
    import numpy as np

    from worldsize.data.classification import Classification
    from worldsize.inference.evaluate_rows import evaluate_classifier, evaluate_translator
    from worldsize.inference.held_out import rows_for, spread

    name, samples = rows_for(opened, asked)
    progress = _progress if sys.stderr.isatty() else None
    if isinstance(samples, Classification):
        ids = spread(np.arange(samples.num_samples), rows or samples.num_samples)
        return evaluate_classifier(opened, samples, ids, data=name, method_name=method, on_progress=progress)
    assert opened.config is not None
    ids = spread(np.arange(samples.num_rows), rows or samples.num_rows)
    num_beams = opened.config.train.eval_beams if beams is None else beams
    return evaluate_translator(opened, samples, ids, num_beams, data=name, method_name=method, on_progress=progress)


def _progress(share: float) -> None:
    print(f"\revaluating  {share:4.0%}", end="\n" if share >= 1 else "", file=sys.stderr, flush=True)


def _text_lines(quality: Quality) -> str:
    return _table(
        ("model", f"{quality.model}, {quality.method}"),
        ("text", f"{quality.data}: {quality.num_tokens:,} tokens, {quality.num_bytes:,} bytes"),
        ("windows", f"{quality.context_length} tokens, {quality.stride} apart"),
        ("loss", f"{quality.loss:.4f} ± {quality.loss_stderr:.4f} nats a token"),
        ("perplexity", f"{quality.perplexity:,.3f}"),
        ("bits", f"{quality.bits_per_byte:.4f} a byte"),
    )


def _row_lines(quality: ClassifierQuality | TranslatorQuality) -> str:
    from worldsize.inference.quality_records import ClassifierQuality

    model = ("model", f"{quality.model}, {quality.method}")
    if isinstance(quality, ClassifierQuality):
        head = _table(
            model,
            ("texts", f"{quality.data}: {quality.num_texts:,}"),
            ("loss", f"{quality.loss:.4f} ± {quality.loss_stderr:.4f} nats a text"),
            ("accuracy", _interval(quality.accuracy, 4)),
            ("macro F1", _interval(quality.macro_f1, 4)),
        )
        return f"{head}\n\n{_confusion(quality)}"
    sentences = f"{quality.data}: {quality.num_sentences:,}, beams {quality.num_beams}, {quality.seconds:.1f} s"
    return _table(
        model,
        ("sentences", sentences),
        ("BLEU", f"{_interval(quality.bleu, 2)}  {quality.bleu_signature}"),
        ("chrF", f"{_interval(quality.chrf, 2)}  {quality.chrf_signature}"),
        *((f"example {i}", " → ".join(example[:2])) for i, example in enumerate(quality.examples, 1)),
    )


def _table(*lines: tuple[str, str]) -> str:
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def _interval(found: Estimate, digits: int) -> str:
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def _confusion(quality: ClassifierQuality) -> str:
    """Return the confusion matrix as text: a line for each true class."""
    names = [label if len(label) <= NAME_WIDTH else f"{label[: NAME_WIDTH - 1]}…" for label in quality.labels]
    cells = [["true \\ found", *names]]
    cells += [[name, *map(str, row)] for name, row in zip(names, quality.confusion, strict=True)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    )
