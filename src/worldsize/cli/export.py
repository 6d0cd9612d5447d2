"""`worldsize export`: a run's weights as a file for other programs. A new format is a line in FORMATS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import JsonOption
from worldsize.errors import UserError, unknown

if TYPE_CHECKING:
    from worldsize.checkpoint_folder import Checkpoint


def _safetensors(checkpoint: Checkpoint, out: Path) -> int:
    from worldsize.inference.export import write_safetensors

    return write_safetensors(checkpoint, out)


FORMATS: dict[str, Callable[[Checkpoint, Path], int]] = {"safetensors": _safetensors}
"""Format → what writes a checkpoint's weights to a path and returns the bytes written."""
WHICH = ("newest", "best")


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run's folder, or one checkpoint's.")],
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="What to write.")],
    file_format: Annotated[
        str, typer.Option("--format", metavar="NAME", help=f"One of: {', '.join(FORMATS)}.")
    ] = "safetensors",
    which: Annotated[
        str, typer.Option("--which", metavar="NAME", help="Of a run: its newest checkpoint, or its best.")
    ] = "newest",
    json_output: JsonOption = False,
) -> None:
    """Write a trained model's weights as one file that others open.

    \b
    worldsize export out/run --out weights.safetensors
    worldsize export out/run --which best --out weights.safetensors
    worldsize export out/run/checkpoints/step-00000040 --format safetensors --out weights.safetensors

    The run must have had checkpoints: set checkpoint.every_steps. The weights are whole, whatever layout trained them.
    """
    if file_format not in FORMATS:
        raise unknown("--format", file_format, FORMATS)
    if which not in WHICH:
        raise unknown("--which", which, WHICH)
    if out.exists():
        raise UserError(f"{out} exists already. Move it away, or give another --out.")
    checkpoint = _found(source, which)
    num_bytes = FORMATS[file_format](checkpoint, out)
    answer = {"checkpoint": str(checkpoint.path), "step": checkpoint.step, "format": file_format, "out": str(out),
              "num_bytes": num_bytes, "evaluation_loss": checkpoint.manifest.evaluation_loss}  # fmt: skip
    if json_output:
        print(json.dumps(answer, indent=1))
    else:
        loss = f", {answer['evaluation_loss']:.4f} on held-out text" if answer["evaluation_loss"] is not None else ""
        print(f"{out}: {num_bytes / 1e6:.2f} MB, the weights after step {checkpoint.step}{loss}")


def _found(source: Path, which: str) -> Checkpoint:
    """Return the checkpoint that is meant, once its digests have been checked."""
    from worldsize.checkpoint_folder import CHECKPOINTS, MANIFEST, best_of, checkpoints_in, damage, read

    if (source / MANIFEST).exists():
        checkpoint = read(source)
    else:
        found = checkpoints_in(source)
        if not found:
            raise UserError(
                f"{source} holds no checkpoint. Give a run's folder with {CHECKPOINTS}/ in it: train with "
                "checkpoint.every_steps=100, say."
            )
        best = best_of(found) if which == "best" else found[0]
        if best is None:
            raise UserError(f"no checkpoint of {source} was evaluated, so none is the best. Use --which newest.")
        checkpoint = best
    trouble = damage(checkpoint.path)
    if trouble:
        raise UserError(f"{checkpoint.path} is damaged: {trouble}. Give another checkpoint's folder.")
    return checkpoint
