"""Many requests on one core: `python -m benchmarks.serving --out FOLDER [--shape gpt2] [--json]`.

32 requests with prompts of 16-96 and answers of 16-64 tokens: served by continuous batching, and by `generate` of the
transformers library one after the other, in turns. Then the same kind of requests as a Poisson process, with goodput.
Greedy tokens in fp32 are compared, request by request, with those of the request alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsize.bench.latency import serving
from worldsize.bench.load import closed_loop, open_loop
from worldsize.bench.records import Objective, Serving
from worldsize.bench.workload import Ask, Lengths, asks
from worldsize.measure.statistics import measured

GOAL = 5.0
NUM_REQUESTS, SLOTS = 32, 16
PROMPT, NEW = Lengths(16, 96), Lengths(16, 64)
LONGEST = PROMPT.high + NEW.high
OBJECTIVE = Objective(ttft_ms=1000.0, tpot_ms=100.0)


def one_after_the_other(model: Any, requests: Sequence[Ask]) -> float:
    """Return the seconds that transformers takes for all requests."""
    import torch

    began_s = time.perf_counter()
    for ask in requests:
        ids = torch.tensor([list(ask.prompt)])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=ask.num_new_tokens, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        assert made.shape[1] == len(ask.prompt) + ask.num_new_tokens
    return time.perf_counter() - began_s


def tokens_of(engine: Any, requests: Sequence[Ask]) -> list[list[int]]:
    """Return every request's tokens, served together, in steps of one shape: rounding is the same in all."""
    from worldsize.inference.serve import Batcher, Request

    batcher = Batcher(engine, fixed_shape=True)
    for ask in requests:
        batcher.submit(Request(ask.prompt, ask.num_new_tokens))
    found: list[list[int]] = [[] for _ in requests]
    for event in batcher.run():
        found[event.request].append(event.token)
    return found


def num_different(engine: Any, requests: Sequence[Ask]) -> int:
    """Return how many requests get other tokens in company than alone: 0, unless something is wrong."""
    together = tokens_of(engine, requests)
    alone = [tokens_of(engine, [ask])[0] for ask in requests]
    return sum(one != other for one, other in zip(together, alone, strict=True))


def compare(folder: Path, methods: Sequence[str], rates: Sequence[float], num_rounds: int) -> dict[str, Any]:
    """Return seconds, ratios, latencies and goodput."""
    import torch
    import transformers

    from worldsize.inference.engine import Engine
    from worldsize.inference.open_model import open_model

    torch.set_num_threads(1)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    opened = open_model(folder)
    engines = {name: Engine(opened, method_name=name, num_slots=SLOTS, length=LONGEST) for name in methods}
    vocab_size = opened.model.vocab_size or 1
    requests = asks(NUM_REQUESTS, PROMPT, NEW, vocab_size, seed=0)
    num_tokens = sum(ask.num_new_tokens for ask in requests)
    one_after_the_other(model, requests[:2])
    for engine in engines.values():
        closed_loop(engine, requests[:4], SLOTS)
    theirs_s: list[float] = []
    rounds: dict[str, list[Serving]] = {name: [] for name in methods}
    for index in range(num_rounds):
        theirs_s.append(one_after_the_other(model, requests))
        print(
            f"  round {index + 1}: transformers {num_tokens / theirs_s[-1]:.1f} tokens/s", file=sys.stderr, flush=True
        )
        for name, engine in engines.items():
            rounds[name].append(serving(*closed_loop(engine, requests, NUM_REQUESTS), OBJECTIVE))
    open_rows = []
    for rate in rates:
        arriving = asks(NUM_REQUESTS, PROMPT, NEW, vocab_size, seed=1, rate_per_s=rate)
        for name, engine in engines.items():
            served = serving(*open_loop(engine, arriving), OBJECTIVE)
            open_rows.append({"method": name, "rate_per_s": rate, "serving": served.model_dump()})
    different = num_different(engines["fp32"], requests) if "fp32" in engines else None
    return {
        "transformers_tokens_per_s": measured([num_tokens / s for s in theirs_s]).model_dump(),
        "rows": [_row(name, served, theirs_s) for name, served in rounds.items()],
        "poisson": open_rows,
        "objective": OBJECTIVE.model_dump(),
        "requests_that_differ_from_alone": different,
        "goal": GOAL,
    }


def _row(name: str, rounds: Sequence[Serving], theirs_s: Sequence[float]) -> dict[str, Any]:
    ratios = [slow_s / served.duration_s for slow_s, served in zip(theirs_s, rounds, strict=True)]
    return {
        "method": name,
        "tokens_per_s": measured([served.output_throughput_tokens_per_s for served in rounds]).model_dump(),
        "times_transformers": measured(ratios).model_dump(),
        "rounds": [served.model_dump() for served in rounds],
    }


def text(result: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [f"  {'transformers, one by one':28}{result['transformers_tokens_per_s']['median']:8.1f} tokens/s"]
    for row in result["rows"]:
        ratio, last = row["times_transformers"], row["rounds"][-1]
        speed = row["tokens_per_s"]["median"]
        lines.append(
            f"  {'worldsize ' + row['method']:28}{speed:8.1f} tokens/s   {ratio['median']:5.2f} × "
            f"[{ratio['low']:.2f}, {ratio['high']:.2f}]   ITL p50 {last['itl_ms']['p50']:.0f}, p99 "
            f"{last['itl_ms']['p99']:.0f} ms   TTFT p50 {last['ttft_ms']['p50']:.0f} ms"
        )
    for row in result["poisson"]:
        served = row["serving"]
        ttft, tpot, itl = (served[name] for name in ("ttft_ms", "tpot_ms", "itl_ms"))
        lines.append(
            f"  Poisson {row['rate_per_s']:g}/s, {row['method']:8} p50/p99: TTFT {ttft['p50']:.0f}/{ttft['p99']:.0f}   "
            f"TPOT {tpot['p50']:.0f}/{tpot['p99']:.0f}   ITL {itl['p50']:.0f}/{itl['p99']:.0f} ms   goodput "
            f"{served['request_goodput_per_s']:.2f}/s, {served['good_share']:.0%} good"
        )
    best = max((row["times_transformers"]["median"] for row in result["rows"]), default=0.0)
    lines.append(f"  best {best:.2f} × transformers   goal {GOAL:.0f}: {'met' if best >= GOAL else 'NOT MET'}")
    differ = result["requests_that_differ_from_alone"]
    if differ is not None:
        lines.append(f"  fp32: {differ} of {NUM_REQUESTS} requests got other tokens than alone   goal 0: "
                     f"{'NOT MET' if differ else 'met'}")  # fmt: skip
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", default="gpt2")
    parser.add_argument("--methods", default="fp32,int8", help="ours, separated by commas")
    parser.add_argument("--rates", default="0.5,1,2", help="Poisson arrivals, requests a second")
    parser.add_argument("--json", action="store_true", help="print the JSON twin instead of a table")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from benchmarks.inference_files import write_folder

    shown = sys.stderr if given.json else sys.stdout
    print(f"{NUM_REQUESTS} mixed requests, {given.shape}, one core", file=shown, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(given.shape, Path(folder))
        rates = [float(rate) for rate in given.rates.split(",") if rate]
        result = compare(Path(folder), given.methods.split(","), rates, given.rounds)
    print(text(result), file=shown, flush=True)
    twin = {"shape": given.shape, "load_average": os.getloadavg()} | result
    (given.out / "serving.json").write_text(json.dumps(twin, indent=1) + "\n")
    if given.json:
        print(json.dumps(twin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
