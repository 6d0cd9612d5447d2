"""`worldsize profile`: which operators and functions take the time of a training step, or of generating."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import (
    JsonOption,
    MethodOption,
    PresetOption,
    ThreadsOption,
    split_config,
    use_threads,
    warn,
)
from worldsize.errors import UserError

if TYPE_CHECKING:
    import torch

    from worldsize.measure.profile import Profile


def profile(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG|MODEL [KEY=VALUE]",
            help="A YAML file with overrides, as for train; or a model's folder, as for generate.",
            show_default=False,
        ),
    ] = None,
    preset: PresetOption = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the files.")] = Path("out/profile"),
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Steps for each clock, after two to warm up.")] = 3,
    rows: Annotated[int, typer.Option("--rows", metavar="N", help="Lines of each table.")] = 12,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", metavar="N", help="MODEL: tokens taken in.")] = 32,
    new_tokens: Annotated[int, typer.Option("--new-tokens", metavar="N", help="MODEL: tokens written.")] = 32,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="MODEL: prompts at the same time.")] = 1,
    method: MethodOption = None,
    threads: ThreadsOption = 1,
    json_: JsonOption = False,
) -> None:
    """Show which operators and functions take the time.

    \b
    worldsize profile --preset tiny                   a training step on one device
    worldsize profile run.yaml train.precision=bf16
    worldsize profile out/run --new-tokens 64         prompts taken in and tokens written, by a model

    The folder then holds trace.json.gz (opens in ui.perfetto.dev), profile.pstats (opens with python -m pstats) and
    profile.json. Each clock has steps of its own: operators and Python functions are not timed at once.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # read once, when torch is imported
    from worldsize.measure.profile import profile_steps

    if min(steps, rows, prompt_tokens, new_tokens, batch) < 1:
        raise UserError("--steps, --rows, --prompt-tokens, --new-tokens and --batch must be at least 1.")
    if arguments and Path(arguments[0]).is_dir():
        if len(arguments) > 1 or preset:
            raise UserError(f"{arguments[0]} is a model's folder: overrides and --preset belong to a config.")
        use_threads(threads)
        run_step, device = _writing(arguments[0], method, prompt_tokens, new_tokens, batch)
        what = f"{arguments[0]}, {method or 'as saved'}: {batch} × ({prompt_tokens} tokens in, {new_tokens} out)"
    else:
        run_step, device = _training(arguments, preset)
        what = "a training step on one device"
    found = profile_steps(run_step, what=what, num_steps=steps, num_rows=rows, device=device, out=out)
    print(found.model_dump_json(indent=1) if json_ else "\n".join(_lines(found)))


def _training(arguments: list[str] | None, preset: str | None) -> tuple[Callable[[], object], torch.device]:
    from worldsize.config.load import load, resolve
    from worldsize.config.rules import check
    from worldsize.data.task import prepare_task
    from worldsize.train.one_rank import training_step

    path, overrides = split_config(arguments)
    loaded = load(path, overrides, preset)
    check(loaded.config, 1)
    warn(loaded.config)
    data = prepare_task(loaded.config.data)
    return training_step(resolve(loaded, 1, data.vocab_size, data.num_classes).config, data)


def _writing(
    given: str, method: str | None, prompt_tokens: int, new_tokens: int, batch: int
) -> tuple[Callable[[], object], torch.device]:
    import torch

    from worldsize.inference.engine import Engine
    from worldsize.inference.open_model import open_model
    from worldsize.inference.serve import Batcher, Request

    opened = open_model(given)
    engine = Engine(opened, method_name=method, num_slots=batch)
    if prompt_tokens + new_tokens > engine.length:
        raise UserError(
            f"--prompt-tokens {prompt_tokens} and --new-tokens {new_tokens} are more than the context's "
            f"{engine.length} tokens. Lower one of them."
        )
    prompt = [position % (engine.vocab_size or 1) for position in range(prompt_tokens)]

    def run_step() -> object:
        batcher = Batcher(engine)
        for _ in range(batch):
            batcher.submit(Request(prompt, new_tokens))
        return list(batcher.run())

    return run_step, torch.device("cpu")


def _lines(found: Profile) -> Iterable[str]:
    cost = found.profiled_step_s / found.step_s - 1
    yield f"what        {found.what}"
    yield f"step        {found.step_s * 1e3:,.1f} ms; {1e2 * cost:+.0f} % while operators are recorded"
    yield ""
    yield f"{'operator':<48}{'calls':>9}{'own time':>12}{'share':>8}"
    for operator in found.operators:
        own_ms = operator.self_s * 1e3 / found.num_steps
        calls = operator.calls / found.num_steps
        yield f"{operator.name[:47]:<48}{calls:>9,.0f}{own_ms:>9,.2f} ms{1e2 * operator.share:>6.1f} %"
    yield ""
    yield f"{'Python function':<57}{'calls':>9}{'own time':>12}{'with called':>13}"
    for function in found.functions:
        own_ms, all_ms = (s * 1e3 / found.num_steps for s in (function.own_s, function.with_called_s))
        yield f"{function.name[-56:]:<57}{function.calls / found.num_steps:>9,.0f}{own_ms:>9,.2f} ms{all_ms:>10,.2f} ms"
    yield ""
    yield f"All figures are of one step. Written: {', '.join(found.files)}"
