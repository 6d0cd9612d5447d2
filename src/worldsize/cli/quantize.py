"""`worldsize quantize`: a smaller model, and how much of its quality that cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import (
    DataOption,
    JsonOption,
    MaxBytesOption,
    ModelArgument,
    TargetDataOption,
    ThreadsOption,
    WhichOption,
    use_threads,
)
from worldsize.errors import UserError

if TYPE_CHECKING:
    from worldsize.inference.quality_records import Estimate
    from worldsize.inference.quantization_records import QuantizationReport


def quantize(
    model: ModelArgument,
    method: Annotated[str, typer.Option("--method", metavar="NAME,NAME", help="One or several; see below.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The new folder; of several methods, DIR/NAME each.")
    ],
    data: DataOption = None,
    target_data: TargetDataOption = None,
    max_bytes: MaxBytesOption = None,
    windows: Annotated[
        int,
        typer.Option(
            "--windows", metavar="N", help="Compare on so many contexts of text, labelled texts, or sentences."
        ),
    ] = 64,
    which: WhichOption = "newest",
    threads: ThreadsOption = 1,
    json_: JsonOption = False,
) -> None:
    """Make a model smaller, and say what that cost.

    \b
    worldsize quantize out/run --method int8 --out out/small
    worldsize quantize out/run --method int8,int4,bf16 --out out/small     a folder and a row each
    worldsize generate out/small --prompt "def"                            it is a MODEL like any other

    \b
    bf16                   weights and products in bfloat16
    int8                   8 bits, a scale for each output; embedding and head once
    int4, int4-all         4 bits in groups of 32; embedding and head in int8, or in 4 bits too
    torchao-int8-weights, torchao-int8-dynamic, torchao-int4-weights, torchao-float8     torchao's own (extra 'quant')
    torch-dynamic          PyTorch's old quantize_dynamic
    fp32                   nothing changed: for comparison

    A row stands only for a folder that was loaded again in a new process and ran there. How fast a model is, it does
    not say: that depends on the machine, and `worldsize bench` measures it.
    """
    from worldsize.inference.held_out import Asked, held_out
    from worldsize.inference.kernels import why_not
    from worldsize.inference.open_model import open_model
    from worldsize.inference.quantization_records import REPORT, QuantizationReport, QuantizedRow, Refused
    from worldsize.inference.quantize import methods_of, refused_all
    from worldsize.inference.quantize import quantize as made
    from worldsize.models.cost import num_parameters
    from worldsize.run_folder import write_record

    if windows < 1:
        raise UserError(f"--windows is {windows}, but must be at least 1.")
    use_threads(threads)
    methods = methods_of(method)
    opened = open_model(model, which)
    opened.needs_weights()
    compared = held_out(opened, Asked(data, target_data, max_bytes), windows)
    found = [
        made(opened, one, out / one.name if len(methods) > 1 else out, compared, threads=threads, say=_say)
        for one in methods
    ]
    rows = [one for one in found if isinstance(one, QuantizedRow)]
    refused = [one for one in found if isinstance(one, Refused)]
    if not rows:
        raise refused_all(refused)
    report = QuantizationReport(
        model=str(opened.path),
        num_parameters=num_parameters(opened.model),
        quality=compared.quality,
        data=compared.name,
        num_windows=compared.num_windows,
        num_predictions=compared.num_predictions,
        labels=compared.labels,
        signatures=compared.signatures,
        kernels=why_not(),
        rows=rows,
        refused=refused,
    )
    write_record(out / REPORT, report)
    if len(rows) > 1:
        _draw(report, out)
    print(report.model_dump_json(indent=1) if json_ else _text(report))


def _draw(report: QuantizationReport, out: Path) -> None:
    from worldsize.report.figures import save
    from worldsize.report.figures.quantization import quality_by_size

    for suffix in ("svg", "png"):
        save(quality_by_size(report), out / f"quality_by_size.{suffix}")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


WINDOWS = {"perplexity": "windows", "accuracy": "texts", "BLEU": "sentences"}
"""What the report's windows are."""


def _change(difference: Estimate) -> str:
    return f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


def _text(report: QuantizationReport) -> str:
    first = report.rows[0]
    head = ("method", "MB", "of fp32", "weights", "buffers", "rest", "KL", "same top-1", report.quality, "difference")
    table: list[tuple[str, ...]] = [(*head, *(cell for one in first.more for cell in (one.name, "difference")))]
    for row in report.rows:
        sizes = row.sizes
        parts = (sizes.total_bytes, sizes.weights_bytes, sizes.buffers_bytes, sizes.rest_bytes)
        total, weights, buffers, rest = (f"{part / 1e6:.2f}" for part in parts)
        figures = [(row.quantized, row.difference), *((one.quantized, one.difference) for one in row.more)]
        quality = (cell for value, difference in figures for cell in (f"{value:.4f}", _change(difference)))
        ratio, same = f"{row.size_ratio:.3f}", f"{row.top1:.2%}"
        table.append((row.method, total, ratio, weights, buffers, rest, f"{row.kl:.2e}", same, *quality))
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    originals = [f"{report.quality} {first.original:.4f}", *(f"{one.name} {one.original:.4f}" for one in first.more)]
    lines += [
        "",
        f"{report.model}: {report.num_parameters:,} parameters, {', '.join(originals)} in fp32 on "
        f"{report.num_windows} {WINDOWS[report.quality]} of {report.data} ({report.num_predictions:,} predictions).",
        f"difference: quantized minus fp32 on the same {WINDOWS[report.quality]}, with its 95 % interval. "
        "Speed: `worldsize bench`.",
    ]
    lines += [f"by sacrebleu: {'; '.join(report.signatures)}"] if report.signatures else []
    lines += [f"no row for {one.method}: {one.reason}." for one in report.refused]
    return "\n".join(lines)
