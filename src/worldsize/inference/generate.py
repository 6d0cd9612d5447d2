"""Prompts in, text out, as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pydantic import Field

from worldsize.data.tokenizer import Tokenizer
from worldsize.errors import UserError
from worldsize.inference.engine import Engine
from worldsize.inference.sampling import Sampling
from worldsize.inference.serve import Batcher, Request
from worldsize.records import Record

HALF_A_CHARACTER = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""

OnText = Callable[[int, str, bool], None]
"""Called with the prompt's index, new text, and whether the prompt has ended."""


class Written(Record):
    """What a model wrote after one prompt."""

    prompt: str
    text: str = Field(description="without the prompt")
    num_prompt_tokens: int
    tokens: list[int] = Field(description="ids of the new tokens")
    ended: str = Field(description="length: as many as asked for; stop: the end of text; context: it is full")


class Generation(Record):
    """What `worldsize generate --json` prints."""

    model: str
    method: str
    outputs: list[Written]
    generate_s: float = Field(description="from the first prompt's first token in to the last token out")
    new_tokens_per_s: float = Field(description="of all prompts together, taking in the prompts included")


def generate(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    num_new_tokens: int,
    sampling: Sampling,
    stops: bool = True,
    on_text: OnText | None = None,
) -> tuple[list[Written], float]:
    """Return what the engine's model writes after each prompt, and the seconds it took.

    All prompts run in one batch, as far as the engine has slots. With `stops` a request ends at the end of text.
    Raises UserError for a prompt that is empty or does not fit.
    """
    batcher = Batcher(engine)
    encoded = [_encode(tokenizer, prompt) for prompt in prompts]
    stop_token = tokenizer.end_of_text if stops else None
    for ids in encoded:
        batcher.submit(Request(ids, num_new_tokens, sampling, stop_token))
    tokens: list[list[int]] = [[] for _ in prompts]
    said = [""] * len(prompts)
    endings = [""] * len(prompts)
    began_s = time.perf_counter()
    for event in batcher.run():
        index = event.request
        if event.ended != "stop":
            tokens[index].append(event.token)
        text = tokenizer.decode(tokens[index])
        whole = text if event.ended else text.rstrip(HALF_A_CHARACTER)
        if on_text is not None:
            on_text(index, whole[len(said[index]) :], event.ended is not None)
        said[index] = whole
        endings[index] = event.ended or ""
    generate_s = time.perf_counter() - began_s
    outputs = [
        Written(prompt=prompt, text=text, num_prompt_tokens=len(ids), tokens=new, ended=ended)
        for prompt, text, ids, new, ended in zip(prompts, said, encoded, tokens, endings, strict=True)
    ]
    return outputs, generate_s


def generation_of(outputs: list[Written], generate_s: float, *, model: str, method: str) -> Generation:
    """Return the record of what `generate` found."""
    num_tokens = sum(len(output.tokens) for output in outputs)
    return Generation(
        model=model, method=method, outputs=outputs, generate_s=generate_s, new_tokens_per_s=num_tokens / generate_s
    )


def _encode(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return a prompt's ids; an empty one begins a document, where the tokenizer has a token for that."""
    ids = tokenizer.encode(prompt)
    if not ids and tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    if not ids:
        raise UserError(
            "--prompt is empty, and this model's tokenizer has no token that begins a text. Give some text."
        )
    return ids
