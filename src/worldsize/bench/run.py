"""All methods of one model in turns: fixed batches, closed loops, Poisson arrivals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

import worldsize
from worldsize.bench.latency import Timeline, serving
from worldsize.bench.load import closed_loop, open_loop
from worldsize.bench.records import BenchResult, Limits, LoadRow, Objective, QualityRow
from worldsize.bench.speed import (
    WARMUP_TOKENS,
    Contender,
    contender,
    info,
    matmul_rate,
    matmul_type,
    run_batch,
    speed_row,
)
from worldsize.bench.workload import Lengths, asks
from worldsize.errors import UserError
from worldsize.inference.engine import PREFILL_CHUNK
from worldsize.inference.open_model import OpenedModel
from worldsize.measure.bandwidth import ReadBandwidth, bytes_in_huge_pages, huge_pages
from worldsize.measure.environment import cpu_name
from worldsize.measure.memory import peak_bytes
from worldsize.models.cost import num_parameters

OPEN_LOOP_SLOTS = 16

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    methods: Sequence[str]
    prompt: Lengths
    new: Lengths
    batches: Sequence[int] = ()
    concurrencies: Sequence[int] = ()
    rates_per_s: Sequence[float] = ()
    num_requests: int = 32
    num_repeats: int = 3
    seed: int = 0
    objective: Objective = field(default_factory=Objective)
    chunk: int = PREFILL_CHUNK
    compiled: bool = False

    @property
    def num_slots(self) -> int:
        return max([*self.batches, *self.concurrencies, OPEN_LOOP_SLOTS if self.rates_per_s else 1])

    @property
    def length(self) -> int:
        return self.prompt.high + self.new.high

    def check(self, context_length: int) -> None:
        """Raise UserError for what cannot be measured."""
        if not (self.batches or self.concurrencies or self.rates_per_s):
            raise UserError("nothing to measure: give --batch, --concurrency or --rate.")
        if min([1, *self.batches, *self.concurrencies, self.num_requests, self.num_repeats, self.chunk]) < 1:
            raise UserError("--batch, --concurrency, --requests, --repeats and --chunk must be at least 1.")
        if any(not 0 < rate < float("inf") for rate in self.rates_per_s):
            raise UserError("--rate is in requests a second and must be above 0, e.g. --rate 0.5,2.")
        if self.batches and self.new.high < 2:
            raise UserError("--new-tokens is 1, which leaves nothing to decode. Give 2 or more.")
        if self.length > context_length:
            raise UserError(
                f"--prompt-tokens and --new-tokens add up to {self.length} tokens, but the model's context is "
                f"{context_length}. Give fewer."
            )


Load = tuple[str, int | float]
"""'closed loop' with its concurrency, or 'Poisson' with its rate."""


def bench(
    opened: OpenedModel, plan: Plan, *, quality: Sequence[QualityRow] = (), random_weights: bool, say: Progress
) -> BenchResult:
    """Measure everything, and return it. Each round gives every method its turn, in another order.

    Raises UserError for a plan that does not fit the model, and for methods that are not to be had.
    """
    plan.check(opened.model.context_length)
    contenders = [_prepared(opened, name, plan, say) for name in plan.methods]
    bandwidth = ReadBandwidth()
    kinds = sorted({matmul_type(who.name) for who in contenders})
    rates = dict.fromkeys(kinds, 0.0)
    served: dict[tuple[str, Load], list[tuple[list[Timeline], float]]] = {}
    for index in range(plan.num_repeats):
        bandwidth.measure()
        rates = {kind: max(rates[kind], matmul_rate(kind)) for kind in kinds}
        for batch in plan.batches:
            say(f"round {index + 1} of {plan.num_repeats}: batch {batch}")
            for who in _in_turn(contenders, index):
                prompts = _prompts(opened, plan, batch)
                who.runs.setdefault(batch, []).append(run_batch(who.engine, prompts, plan.new.high))
        for load in loads_of(plan):
            say(f"round {index + 1} of {plan.num_repeats}: {load[0]}, {load[1]:g}")
            for who in _in_turn(contenders, index):
                served.setdefault((who.name, load), []).append(_serve(who, opened, plan, load, plan.seed + index))
    limits = Limits(
        bandwidth_bytes_per_s=bandwidth.measure(),
        bandwidth_buffer_bytes=bandwidth.num_bytes,
        matmul_flop_per_s=rates,
        huge_pages=huge_pages(),
        huge_page_bytes=bytes_in_huge_pages(),
    )
    return BenchResult(
        model=str(opened.path),
        num_parameters=num_parameters(opened.model),
        random_weights=random_weights,
        cpu_name=cpu_name(),
        num_threads=torch.get_num_threads(),
        torch=torch.__version__,
        worldsize=worldsize.__version__,
        load_average=os.getloadavg(),
        prompt_tokens=(plan.prompt.low, plan.prompt.high),
        new_tokens=(plan.new.low, plan.new.high),
        num_repeats=plan.num_repeats,
        seed=plan.seed,
        objective=plan.objective,
        num_slots=plan.num_slots,
        chunk=plan.chunk,
        peak_memory_bytes=peak_bytes(torch.device("cpu")),
        limits=limits,
        methods=[info(who) for who in contenders],
        speeds=[
            speed_row(
                who,
                batch,
                plan.prompt.high,
                opened.model,
                limits.bandwidth_bytes_per_s,
                rates[matmul_type(who.name)],
            )
            for batch in plan.batches
            for who in contenders
        ],
        loads=[
            _load_row(who.name, load, served[who.name, load], plan) for load in loads_of(plan) for who in contenders
        ],
        quality=list(quality),
    )


def loads_of(plan: Plan) -> list[Load]:
    closed: list[Load] = [("closed loop", number) for number in plan.concurrencies]
    return closed + [("Poisson", rate) for rate in plan.rates_per_s]


def _prepared(opened: OpenedModel, name: str, plan: Plan, say: Progress) -> Contender:
    """Pack a method and run it until all that is made once has been made."""
    say(f"{name}: packing and warming up")
    who = contender(
        opened, name, num_slots=plan.num_slots, length=plan.length, chunk=plan.chunk, compiled=plan.compiled
    )
    first = run_batch(who.engine, _prompts(opened, plan, 1), WARMUP_TOKENS)
    who.first_s = first.prefill_s + first.decode_s
    for batch in plan.batches:
        run_batch(who.engine, _prompts(opened, plan, batch), plan.new.high if plan.compiled else WARMUP_TOKENS)
    for load in loads_of(plan) if plan.compiled else ():
        _serve(who, opened, plan, load, plan.seed)
    return who


def _in_turn(contenders: Sequence[Contender], index: int) -> Iterator[Contender]:
    shift = index % len(contenders)
    yield from contenders[shift:]
    yield from contenders[:shift]


def _prompts(opened: OpenedModel, plan: Plan, batch: int) -> list[Sequence[int]]:
    """Return prompts of the full length, the same ones every time."""
    full = Lengths(plan.prompt.high, plan.prompt.high)
    return [ask.prompt for ask in asks(batch, full, plan.new, opened.model.vocab_size or 1, plan.seed)]


def _serve(who: Contender, opened: OpenedModel, plan: Plan, load: Load, seed: int) -> tuple[list[Timeline], float]:
    kind, value = load
    rate_per_s = value if kind == "Poisson" else None
    vocab_size = opened.model.vocab_size or 1
    requests = asks(plan.num_requests, plan.prompt, plan.new, vocab_size, seed, rate_per_s=rate_per_s)
    return open_loop(who.engine, requests) if rate_per_s else closed_loop(who.engine, requests, int(value))


def _load_row(method: str, load: Load, rounds: Sequence[tuple[list[Timeline], float]], plan: Plan) -> LoadRow:
    timelines = [line for lines, _ in rounds for line in lines]
    is_closed = load[0] == "closed loop"
    return LoadRow(
        method=method,
        arrivals="closed loop" if is_closed else "Poisson",
        concurrency=int(load[1]) if is_closed else None,
        request_rate_per_s=None if is_closed else float(load[1]),
        serving=serving(timelines, sum(duration_s for _, duration_s in rounds), plan.objective),
    )
