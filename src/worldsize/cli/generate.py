"""`worldsize generate`: a model writes on from prompts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import JsonOption, MethodOption, ModelArgument, ThreadsOption, WhichOption, use_threads
from worldsize.errors import UserError

if TYPE_CHECKING:
    from worldsize.inference.generate import OnText


def generate(
    model: ModelArgument,
    prompt: Annotated[list[str], typer.Option("--prompt", metavar="TEXT", help="Repeat it for several prompts.")],
    new_tokens: Annotated[int, typer.Option("--new-tokens", metavar="N", help="At most so many for each prompt.")] = 64,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token each time.")] = 0.0,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", help="Draw from the K likeliest.", show_default=False)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", metavar="P", help="Draw from the likeliest of this total share.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed and prompts, same text.")] = 0,
    slots: Annotated[int, typer.Option("--slots", metavar="N", help="Prompts that run at the same time.")] = 8,
    which: WhichOption = "newest",
    method: MethodOption = None,
    ignore_end: Annotated[bool, typer.Option("--ignore-end", help="Write on after an end of text.")] = False,
    threads: ThreadsOption = 1,
    json_: JsonOption = False,
) -> None:
    """Let a model write on from a prompt.

    \b
    worldsize generate out/run --prompt "def main():"                    the likeliest tokens, as they come
    worldsize generate out/run --prompt "def" --temperature 0.8 --top-p 0.95 --seed 1
    worldsize generate gpt2-folder --prompt "One" --prompt "Two, three" --new-tokens 32 --json

    Several prompts run in one batch; each is shown when it is done, in their order.
    """
    from worldsize.inference.engine import Engine
    from worldsize.inference.generate import generate as write
    from worldsize.inference.generate import generation_of
    from worldsize.inference.open_model import open_model
    from worldsize.inference.sampling import Sampling

    if new_tokens < 1 or slots < 1:
        raise UserError("--new-tokens and --slots must be at least 1.")
    sampling = Sampling(temperature, top_k, top_p, seed)
    sampling.check()
    use_threads(threads)
    opened = open_model(model, which)
    tokenizer = opened.needs_tokenizer()
    engine = Engine(opened, method_name=method, num_slots=min(slots, len(prompt)))
    outputs, generate_s = write(
        engine,
        tokenizer,
        prompt,
        num_new_tokens=new_tokens,
        sampling=sampling,
        stops=not ignore_end,
        on_text=None if json_ else _streamed(prompt),
    )
    found = generation_of(outputs, generate_s, model=str(opened.path), method=engine.method_name)
    if json_:
        print(found.model_dump_json(indent=1))
        return
    print(f"{found.new_tokens_per_s:,.1f} new tokens/s in {generate_s:.1f} s", file=sys.stderr)


def _streamed(prompts: list[str]) -> OnText:
    """Return what shows text as it comes: of the first prompt that has not ended; of the later ones when it has."""
    waiting = dict.fromkeys(range(len(prompts)), "")
    over: set[int] = set()
    current = 0
    print(prompts[0], end="", flush=True)

    def show(index: int, text: str, ended: bool) -> None:
        nonlocal current
        waiting[index] += text
        if ended:
            over.add(index)
        while current < len(prompts):
            print(waiting[current], end="", flush=True)
            waiting[current] = ""
            if current not in over:
                return
            current += 1
            print(
                f"\n\n{prompts[current]}" if current < len(prompts) else "", end="" if current < len(prompts) else "\n"
            )

    return show
