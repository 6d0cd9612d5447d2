"""Arguments that several commands take, and the rule that tells a config file from an override."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worldsize.errors import UserError, unknown

if TYPE_CHECKING:
    from worldsize.config.schema import Config

SCALING_MODES: tuple[Literal["strong"], Literal["weak"]] = ("strong", "weak")

ConfigArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|KEY=VALUE",
        help="A YAML file, then overrides such as model.d_model=256. Both may be left out.",
        show_default=False,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="Start from a preset; `worldsize config --presets` lists them."),
]
NprocOption = Annotated[
    int, typer.Option("--nproc", metavar="N", help="World size: how many ranks, and so devices, the run has.")
]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run's folder, a checkpoint, an exported, quantized or Hugging Face folder."
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Keep weights as fp32, bf16, int8, int4, … (see quantize); unset = as saved.",
        show_default=False,
    ),
]
WhichOption = Annotated[
    str, typer.Option("--which", metavar="NAME", help="Of a run: its newest checkpoint, or its best.")
]
HostsOption = Annotated[
    int | None, typer.Option("--hosts", metavar="N", help="Spread ranks over N emulated hosts (lab.hosts; needs root).")
]
LinksOption = Annotated[
    str | None,
    typer.Option("--link", metavar="1gbit,100mbit", help="Rate of the hosts' links (lab.link); several are an axis."),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Text as data.source, or rows as data.validation_source; unset = what the run held out.",
        show_default=False,
    ),
]
TargetDataOption = Annotated[
    str | None,
    typer.Option(
        "--target-data",
        metavar="SOURCE",
        help="Of translation: the lines that translate those of --data.",
        show_default=False,
    ),
]
MaxBytesOption = Annotated[
    int | None, typer.Option("--max-bytes", metavar="N", min=1, help="Read only so much of --data.", show_default=False)
]
GlobalBatchOption = Annotated[
    str | None,
    typer.Option(metavar="64,128", help="Global batches, at the smallest world size. Default: the config's."),
]
VaryOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=V1,V2", help="One more axis of the grid; may be given repeatedly.")
]
ScalingOption = Annotated[
    str, typer.Option(metavar="strong|weak", help="What stays the same: the global batch, or the per-device batch.")
]
StudyFolderOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder. Default: out/NAME, by the config's or preset's name.")
]
OverrideOption = Annotated[
    bool, typer.Option("--override", help="Print speedups that the same-work gate refuses, with a mark.")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", metavar="N", help="Cores that compute; more pay on larger models.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]


def split_config(arguments: list[str] | None) -> tuple[Path | None, list[str]]:
    """Return (config file or None, overrides). The first argument is an override if it has a '=' and is no file."""
    if not arguments:
        return None, []
    first, rest = arguments[0], arguments[1:]
    if "=" in first and not os.path.isfile(first):
        return None, [first, *rest]
    return Path(first), rest


def lab_overrides(hosts: int | None, link: str | None) -> list[str]:
    """Return what --hosts and --link are short for."""
    return [*([f"lab.hosts={hosts}"] if hosts else []), *([f"lab.link={link}"] if link else [])]


def scaling_mode(given: str) -> Literal["strong", "weak"]:
    """Return --scaling. Raises UserError when it is neither."""
    for mode in SCALING_MODES:
        if given == mode:
            return mode
    raise unknown("scaling mode", given, SCALING_MODES)


def check_nproc(nproc: int) -> None:
    """Raise UserError unless the world size is at least 1."""
    if nproc < 1:
        raise UserError(f"--nproc is {nproc}, but must be at least 1.")


def use_threads(threads: int) -> None:
    """Compute on so many cores. Raises UserError when that is none."""
    if threads < 1:
        raise UserError(f"--threads is {threads}, but must be at least 1.")
    import torch

    torch.set_num_threads(threads)


def warn(config: Config) -> None:
    """Say on standard error what is legal but probably not meant."""
    from worldsize.config.cautions import cautions

    if os.environ.get("RANK", "0") == "0":
        for caution in cautions(config):
            print(f"note: {caution}", file=sys.stderr)
