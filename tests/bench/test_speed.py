"""What is measured beside time: bytes and FLOP, against counts by hand; and the arithmetic of a row."""

from __future__ import annotations

import pytest

from tests.inference.models import opened
from tests.models.model_configs import gpt, llama
from worldsize.bench.speed import (
    BatchRun,
    Contender,
    chunks,
    info,
    matmul_rate,
    matmul_type,
    prefill_flop,
    read_bytes_per_step,
    run_batch,
    speed_row,
)
from worldsize.config.schema import ModelConfig
from worldsize.inference import kernels
from worldsize.inference.engine import Engine
from worldsize.models.cost import num_parameters


def shape(**more: object) -> ModelConfig:
    values = {"num_layers": 2, "d_model": 8, "num_heads": 2, "vocab_size": 11, "context_length": 16}
    return gpt(**values | more)


def test_a_step_reads_all_weights_but_what_it_looks_up() -> None:
    tied, untied = shape(), shape(tied_head=False)
    positions, embedding = 16 * 8 * 4, 11 * 8 * 4
    for model, looked_up in ((tied, positions), (untied, positions + embedding)):
        network = Engine(opened(model)).network
        assert read_bytes_per_step(network) == 4 * num_parameters(model) - looked_up


def test_a_rotary_models_tables_are_looked_up() -> None:
    model = llama()
    untied = 0 if model.tied_head else (model.vocab_size or 0) * model.d_model * 4
    assert read_bytes_per_step(Engine(opened(model)).network) == 4 * num_parameters(model) - untied


def test_half_the_bits_of_matrices_are_half_their_bytes() -> None:
    networks = {name: Engine(opened(shape()), method_name=name).network for name in ("fp32", "bf16")}
    matrices = 2 * (8 * 24 + 8 * 8 + 2 * 8 * 32) + 11 * 8
    fp32, bf16 = (read_bytes_per_step(networks[name]) for name in ("fp32", "bf16"))
    assert fp32 - bf16 == 2 * matrices


def test_the_flop_of_a_prompt() -> None:
    """Per token and block 2·(8·24 + 8·8 + 8·32·2); scores of 5 tokens under a causal mask; one row of logits."""
    linear = 2 * 5 * 2 * (8 * 24 + 8 * 8 + 2 * 8 * 32)
    attention = 2 * 2 * (2 * (5 * 6 / 2) * 8)
    assert prefill_flop(shape(), 5) == linear + attention + 2 * 8 * 11


def test_a_row_of_figures() -> None:
    """Two repeats of two rows: prompts of 4 in by 1 s and by 2 s, then two steps."""
    engine = Engine(opened(shape()), num_slots=2)
    who = Contender("fp32", engine, load_s=0.5)
    who.runs[2] = [BatchRun([0.5, 1.0], [0.25, 0.25]), BatchRun([1.0, 2.0], [0.5, 1.5])]
    row = speed_row(who, 2, 4, shape(), bandwidth=1e6, matmul_rate=1e6)
    assert row.ttft_ms.values == [500, 1000, 1000, 2000]
    assert row.tpot_ms.samples == [250, 1000]
    assert row.itl_ms.values == [250, 250, 500, 1500]
    assert row.prefill_tokens_per_s.samples == [8, 4]
    assert row.decode_tokens_per_s.samples == [8, 2]
    assert row.request_tokens_per_s.samples == [4, 1]
    assert row.requests_per_s.samples == pytest.approx([2 / 1.5, 2 / 4])
    read = read_bytes_per_step(engine.network)
    assert row.decode_bytes_per_s.samples == [4 * read, read]
    assert row.share_of_bandwidth.samples == pytest.approx([4 * read / 1e6, read / 1e6])
    flop = 2 * prefill_flop(shape(), 4)
    assert row.share_of_matmul.samples == pytest.approx([flop / 1e6, flop / 2e6])


def test_what_is_known_of_a_method() -> None:
    engine = Engine(opened(shape()), num_slots=3, length=12)
    found = info(Contender("fp32", engine, load_s=0.5, first_s=0.25))
    assert found.cache_bytes == 2 * 2 * 3 * 12 * 8 * 4  # keys and values, blocks, slots, positions, width, fp32
    assert found.weight_bytes == 4 * num_parameters(shape())
    assert (found.load_s, found.first_s, found.compiled, found.matmul_type) == (0.5, 0.25, False, "fp32")


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("fp32", "fp32"),
        ("bf16", "bf16"),
        ("int8", "int8"),
        ("int4", "fp32" if kernels.why_not() else "int8"),
        ("torchao-int8-dynamic", "int8"),
        ("torchao-int8-weights", "fp32"),
        ("torch-dynamic", "int8"),
    ],
)
def test_what_prefill_is_measured_against(method: str, kind: str) -> None:
    assert matmul_type(method) == kind
    assert matmul_rate(kind) > 0


def test_a_batch_is_run_to_its_end() -> None:
    """Three rows, prompts in chunks: as many moments as rows, as many steps as new tokens less one."""
    engine = Engine(opened(gpt()), num_slots=3, chunk=4)
    calls: list[int] = []
    prefill = engine.prefill
    engine.prefill = lambda slot, tokens, start: calls.append(len(tokens)) or prefill(slot, tokens, start)  # type: ignore[method-assign, func-returns-value]
    run = run_batch(engine, [[1] * 6, [2] * 6, [3] * 6], 5)
    assert calls == [4, 2] * 3
    assert len(run.first_token_s) == 3
    assert run.first_token_s == sorted(run.first_token_s)
    assert run.prefill_s == run.first_token_s[-1]
    assert len(run.step_s) == 4
    assert run.decode_s == pytest.approx(sum(run.step_s))


def test_pieces_of_a_prompt() -> None:
    assert list(chunks([5, 6, 7, 8, 9], 2)) == [(0, [5, 6]), (2, [7, 8]), (4, [9])]
