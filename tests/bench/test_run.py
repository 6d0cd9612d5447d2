"""The whole benchmark on a tiny model: every method in every row, and plans that cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.serving import num_different

from tests.inference.models import opened
from tests.models.model_configs import gpt
from worldsize.bench.records import BenchResult, Objective
from worldsize.bench.run import Plan, bench
from worldsize.bench.workload import Lengths, asks
from worldsize.cli import run_command
from worldsize.errors import UserError
from worldsize.inference.engine import Engine
from worldsize.models.cost import num_parameters

SMALL = ["--prompt-tokens", "4-9", "--new-tokens", "3", "--requests", "3", "--repeats", "2"]


def plan(**more: Any) -> Plan:
    values: dict[str, Any] = {"methods": ["fp32"], "prompt": Lengths(4, 9), "new": Lengths(3, 3), "batches": [1]}
    return Plan(**values | more)


def test_every_method_has_every_row() -> None:
    model = opened(gpt(context_length=32))
    said: list[str] = []
    found = bench(
        model,
        plan(
            methods=["fp32", "int8"], batches=[1, 3], concurrencies=[2], rates_per_s=[200.0], num_requests=4,
            num_repeats=2, objective=Objective(ttft_ms=1e9),
        ),
        random_weights=True,
        say=said.append,
    )  # fmt: skip
    assert [(row.batch, row.method) for row in found.speeds] == [(1, "fp32"), (1, "int8"), (3, "fp32"), (3, "int8")]
    assert [(row.arrivals, row.method) for row in found.loads] == [
        ("closed loop", "fp32"), ("closed loop", "int8"), ("Poisson", "fp32"), ("Poisson", "int8"),
    ]  # fmt: skip
    assert all(len(row.tpot_ms.samples) == 2 and len(row.itl_ms.values) == 4 for row in found.speeds)
    for row in found.loads:
        assert (row.serving.num_requests, row.serving.num_output_tokens) == (8, 24)
        assert row.serving.good_share == 1
        assert row.serving.itl_ms is not None
        assert len(row.serving.itl_ms.values) == 16
    assert found.num_slots == 16
    assert found.num_parameters == num_parameters(model.model)
    assert set(found.limits.matmul_flop_per_s) == {"fp32", "int8"}
    assert any("round 2 of 2" in line for line in said)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batches": []}, "nothing to measure"),
        ({"batches": [0]}, "at least 1"),
        ({"rates_per_s": [0.0]}, "above 0"),
        ({"new": Lengths(1, 1)}, "nothing to decode"),
        ({"new": Lengths(3, 30)}, r"39 tokens, but the model's context is 32"),
        ({"methods": ["int3"]}, r"unknown method 'int3'"),
    ],
)
def test_plans_that_cannot_be(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench(opened(gpt(context_length=32)), plan(**more), random_weights=True, say=lambda _: None)


def test_32_mixed_requests_get_the_tokens_that_they_get_alone() -> None:
    """Continuous batching changes nothing of what anybody reads, prompts in chunks and all."""
    model = opened(gpt(context_length=48))
    requests = asks(32, Lengths(3, 24), Lengths(2, 16), model.model.vocab_size or 1, seed=0)
    assert num_different(Engine(model, num_slots=16, chunk=7), requests) == 0


def test_a_batch_that_cannot_tell_requests_apart_is_found_out() -> None:
    model = opened(gpt(context_length=48))
    engine = Engine(model, num_slots=16, chunk=7)
    decode = engine.decode
    engine.decode = lambda tokens, positions: decode(tokens.flip(0), positions.flip(0)).flip(0)  # type: ignore[method-assign]
    requests = asks(6, Lengths(3, 24), Lengths(2, 16), model.model.vocab_size or 1, seed=0)
    assert num_different(engine, requests) > 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--shape", "tiny", "--method", "fp32", "--batch", "1", *SMALL, "--out", str(tmp_path / "b")]
    assert run_command([*arguments, "--json"]) == 0
    found = BenchResult.model_validate_json(capsys.readouterr().out)
    assert found.random_weights
    assert found.prompt_tokens == (4, 9)
    assert json.loads((tmp_path / "b" / "bench.json").read_text()) == json.loads(found.model_dump_json())
    assert "<h1" in (tmp_path / "b" / "bench.html").read_text()
    assert run_command(["bench", "--shape", "tiny", "--method", "fp32", "--batch", "1", *SMALL]) == 0
    assert "Fixed batches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either MODEL or --shape"),
        (["x", "--shape", "tiny"], "give either MODEL or --shape"),
        (["--shape", "huge"], r"unknown shape 'huge'.*Allowed: "),
        (["nowhere"], "there is no model 'nowhere'"),
        (["--shape", "tiny", "--batch", "one"], "--batch is 'one'"),
        (["--shape", "tiny", "--method", ""], "--method is empty"),
        (["--shape", "tiny", "--prompt-tokens", "9-1"], "--prompt-tokens is '9-1'"),
    ],
)
def test_bad_input_is_told_in_words(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_command(["bench", *arguments])


def test_the_benchmarks_command_knows_its_parts() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--only", "none"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Allowed: train_speed, strategy_speed, inference_speed, serving" in done.stderr
