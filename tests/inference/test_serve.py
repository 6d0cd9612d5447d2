"""Continuous batching: every request gets what it would get alone, whoever comes and goes beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference.models import opened, tokens
from tests.models.model_configs import gpt, llama
from worldsize.errors import UserError
from worldsize.inference.engine import Engine
from worldsize.inference.sampling import Sampling
from worldsize.inference.serve import Batcher, Event, Request

MODELS = {"gpt2": opened(gpt(context_length=48)), "llama": opened(llama(context_length=48))}
ENGINES = {
    (name, num_slots): Engine(model, num_slots=num_slots, chunk=5)
    for name, model in MODELS.items()
    for num_slots in (1, 3)
}


def served(engine: Engine, requests: Sequence[Request], *, fixed_shape: bool = False) -> list[list[int]]:
    batcher = Batcher(engine, fixed_shape=fixed_shape)
    for request in requests:
        batcher.submit(request)
    return by_request(list(batcher.run()), len(requests))


def by_request(events: Sequence[Event], num_requests: int) -> list[list[int]]:
    return [[event.token for event in events if event.request == index] for index in range(num_requests)]


def greedily(name: str, request: Request) -> list[int]:
    """Return what the whole forward, token after token, says; no cache, no batch."""
    decoder, ids = MODELS[name].decoder(), list(request.prompt)
    for _ in range(request.num_new_tokens):
        with torch.no_grad():
            ids.append(int(decoder(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(request.prompt) :]


def requests_of(sizes: Sequence[tuple[int, int]]) -> list[Request]:
    ids = tokens(len(sizes), 48).tolist()
    return [Request(ids[i][:prompt], new) for i, (prompt, new) in enumerate(sizes)]


@pytest.mark.parametrize("name", MODELS)
def test_six_requests_on_three_slots_get_what_they_get_alone(name: str) -> None:
    requests = requests_of([(1, 9), (17, 4), (6, 7), (5, 1), (30, 6), (2, 2)])
    expected = [greedily(name, request) for request in requests]
    assert served(ENGINES[name, 3], requests) == expected
    assert served(ENGINES[name, 3], requests, fixed_shape=True) == expected
    assert [served(ENGINES[name, 1], [request])[0] for request in requests] == expected


some_requests = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8), st.integers(0, 5)), min_size=1, max_size=6)


@given(some_requests)
@settings(max_examples=10, deadline=None)
def test_requests_that_come_at_any_time_get_what_they_get_alone(comings: list[tuple[int, int, int]]) -> None:
    """Each comes some turns after the one before."""
    requests = requests_of([(prompt, new) for prompt, new, _ in comings])
    batcher, events = Batcher(ENGINES["gpt2", 3], fixed_shape=True), []
    for request, (_, _, num_turns) in zip(requests, comings, strict=True):
        for _ in range(num_turns):
            events += batcher.step()
        batcher.submit(request)
    events += batcher.run()
    assert by_request(events, len(requests)) == [served(ENGINES["gpt2", 1], [request])[0] for request in requests]


def test_a_long_prompt_never_holds_the_others_up_for_more_than_a_chunk() -> None:
    engine = ENGINES["gpt2", 3]
    batcher = Batcher(engine)
    first = batcher.submit(requests_of([(3, 20)])[0])
    batcher.step()
    chunks: list[int] = []
    prefill, engine.prefill = (
        engine.prefill,
        lambda slot, ids, start: chunks.append(len(ids)) or prefill(slot, ids, start),
    )  # type: ignore[method-assign, func-returns-value]
    try:
        second = batcher.submit(Request(tokens(1, 33)[0].tolist(), 3))
        for turn in range(1, 8):
            events = batcher.step()
            assert [event.request for event in events].count(first) == 1
            assert any(event.request == second for event in events) == (turn == 7)
    finally:
        del engine.prefill  # type: ignore[method-assign]
    assert chunks == [5, 5, 5, 5, 5, 5, 3]


def test_slots_are_used_again_at_once() -> None:
    batcher = Batcher(ENGINES["gpt2", 1])
    for request in requests_of([(2, 2), (2, 3)]):
        batcher.submit(request)
    assert [event.request for event in batcher.run()] == [0, 0, 1, 1, 1]
    assert not batcher.busy


def test_how_requests_end() -> None:
    ids = tokens(1, 48)[0].tolist()
    plain = served(ENGINES["llama", 1], [Request(ids[:4], 8)])[0]
    stop = plain[3]
    batcher = Batcher(ENGINES["llama", 1])
    batcher.submit(Request(ids[:4], 8, stop_token=stop))
    batcher.submit(Request(ids[:4], 8))
    batcher.submit(Request(ids[:45], 8))
    events = list(batcher.run())
    assert [event.token for event in events if event.request == 0] == plain[: plain.index(stop) + 1]
    ends = {event.request: event.ended for event in events if event.ended}
    assert ends == {0: "stop", 1: "length", 2: "context"}
    assert len([event for event in events if event.request == 2]) == 48 - 45 + 1


def test_samples_do_not_depend_on_who_else_is_there() -> None:
    hot = Sampling(temperature=1.0, seed=3)
    ids = tokens(4, 12).tolist()
    together = served(ENGINES["gpt2", 3], [Request(row, 9, hot) for row in ids])
    alone = served(ENGINES["gpt2", 1], [Request(ids[0], 9, hot)])[0]
    assert together[0] == alone
    assert served(ENGINES["gpt2", 3], [Request(ids[0], 9, hot)] * 2)[0] != together[1]


def test_what_cannot_be_served_is_refused() -> None:
    batcher = Batcher(ENGINES["gpt2", 1])
    with pytest.raises(UserError, match="a prompt of no tokens"):
        batcher.submit(Request([], 3))
    with pytest.raises(UserError, match="the prompt has 48 tokens; the context holds 48"):
        batcher.submit(Request([1] * 48, 3))
