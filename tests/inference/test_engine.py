"""The engine against the whole forward and against the transformers library's own generation."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.inference.models import assert_same_logits, hf_gpt2, hf_llama, logits, opened, tokens
from tests.models.model_configs import gpt, llama, models
from worldsize.config.schema import ModelConfig
from worldsize.data.tokenizer import ByteTokenizer
from worldsize.errors import UserError
from worldsize.inference.engine import Engine
from worldsize.inference.int8 import Int8
from worldsize.inference.matrix import Bf16, Fp32
from worldsize.inference.open_model import open_model

SHAPES = {"gpt2": gpt(), "llama": llama(), "one group": llama(num_kv_heads=1), "untied": gpt(tied_head=False)}


@pytest.mark.parametrize("model", SHAPES.values(), ids=SHAPES)
def test_chunks_and_decoding_give_the_whole_forwards_logits(model: ModelConfig) -> None:
    """Three rows at different places, their prompts taken in by chunks of different sizes."""
    ours = opened(model)
    ids_BT = tokens(3, model.context_length)
    expected_BTV = logits(ours.decoder(), ids_BT)
    engine = Engine(ours, num_slots=3)
    for slot, cuts in enumerate([(0, 9), (0, 4, 5, 16), (0, 1, 2)]):
        for start, end in pairwise(cuts):
            got_V = engine.prefill(slot, ids_BT[slot, start:end].tolist(), start)
            assert_same_logits(got_V, expected_BTV[slot, end - 1])
    positions_B = torch.tensor([9, 16, 2])
    for _ in range(8):
        got_BV = engine.decode(ids_BT[torch.arange(3), positions_B], positions_B)
        assert_same_logits(got_BV, expected_BTV[torch.arange(3), positions_B])
        positions_B = positions_B + 1


@given(models(), st.data())
@settings(max_examples=25, deadline=None)
def test_every_option_gives_the_whole_forwards_logits(model: ModelConfig, data: st.DataObject) -> None:
    ours = opened(model)
    ids_BT = tokens(2, model.context_length, model.vocab_size or 0)
    expected_BTV = logits(ours.decoder(), ids_BT)
    engine = Engine(ours, num_slots=2)
    torch.testing.assert_close(engine.score(ids_BT), expected_BTV, rtol=0, atol=1e-4)
    cut = data.draw(st.integers(1, model.context_length - 1))
    slot = data.draw(st.integers(0, 1))
    got_V = engine.prefill(slot, ids_BT[slot, :cut].tolist(), 0)
    torch.testing.assert_close(got_V, expected_BTV[slot, cut - 1], rtol=0, atol=1e-4)
    got_BV = engine.decode(ids_BT[:, cut], torch.full((2,), cut))
    torch.testing.assert_close(got_BV[slot], expected_BTV[slot, cut], rtol=0, atol=1e-4)


@pytest.mark.hf
@pytest.mark.parametrize("reference", ["gpt2", "llama"])
def test_greedy_tokens_are_those_of_transformers(reference: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    theirs: Any = hf_gpt2(tie_word_embeddings=False) if reference == "gpt2" else hf_llama()
    theirs.generation_config.eos_token_id = None
    theirs.save_pretrained(tmp_path)
    engine = Engine(open_model(tmp_path), num_slots=1)
    prompt = tokens(1, 11)
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=30,
        do_sample=False,
        pad_token_id=0,
    )
    assert len(set(expected[0, 11:].tolist())) > 2, "a text of one token proves little"
    token_1 = engine.prefill(0, prompt[0].tolist(), 0).argmax().unsqueeze(0)
    position_1 = torch.tensor([11])
    got = [int(token_1)]
    while len(got) < 30:
        token_1, position_1 = engine.greedy(token_1, position_1)
        got.append(int(token_1))
    assert got == expected[0, 11:].tolist()


def test_rows_know_nothing_of_each_other() -> None:
    """In one shape of batch a row's logits are the same to the bit, whatever the other rows hold."""
    engine = Engine(opened(gpt()), num_slots=4)
    ids_BT = tokens(4, 24)

    def third_row(others: Tensor) -> Tensor:
        for slot in (0, 1, 3):
            engine.prefill(slot, others[slot, :7].tolist(), 0)
        engine.prefill(2, ids_BT[2, :9].tolist(), 0)
        return engine.decode(ids_BT[:, 9], torch.tensor([7, 3, 9, 1]))[2]

    torch.testing.assert_close(third_row(ids_BT), third_row(ids_BT.flip(0).flip(1)), rtol=0, atol=0)


def test_what_an_earlier_request_left_in_a_slot_does_not_show() -> None:
    engine = Engine(opened(llama()), num_slots=1)
    ids_T = tokens(1, 24)[0].tolist()
    fresh = engine.prefill(0, ids_T[:5], 0)
    engine.prefill(0, ids_T, 0)
    torch.testing.assert_close(engine.prefill(0, ids_T[:5], 0), fresh, rtol=0, atol=0)


def test_bf16_weights_are_rounded_ones() -> None:
    weight_OI = torch.randn(40, 24, generator=torch.Generator().manual_seed(1))
    x_NI = torch.randn(3, 24, generator=torch.Generator().manual_seed(2))
    packed = Bf16.pack(weight_OI)
    assert packed.num_bytes == 40 * 24 * 2
    torch.testing.assert_close(packed.embed(torch.tensor([7, 1])), weight_OI[[7, 1]].bfloat16().float(), rtol=0, atol=0)
    expected_NO = x_NI.bfloat16().double() @ weight_OI.bfloat16().double().t()
    torch.testing.assert_close(packed.linear(x_NI).double(), expected_NO, rtol=2**-8, atol=2**-6)
    assert Fp32.pack(weight_OI).num_bytes == 40 * 24 * 4


def test_int8_is_the_arithmetic_that_it_says() -> None:
    """Against the same rounding written out in float64; a row of zeros stays one."""
    weight_OI = torch.randn(40, 24, generator=torch.Generator().manual_seed(1))
    weight_OI[3] = 0
    x_NI = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(2))
    bias_O = torch.arange(40.0)
    packed = Int8.pack(weight_OI)
    assert packed.num_bytes == 40 * 24 + 40 * 4

    def rounded(rows: Tensor) -> Tensor:
        steps = rows.abs().amax(-1, keepdim=True).double() / 127
        return torch.where(steps > 0, (rows.double() / steps.clamp(min=1e-30)).round() * steps, 0.0)

    expected = rounded(x_NI) @ rounded(weight_OI).t() + bias_O
    torch.testing.assert_close(packed.linear(x_NI, bias_O).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        packed.embed(torch.tensor([3, 9])).double(), rounded(weight_OI)[[3, 9]], rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("method", ["bf16", "int8"])
def test_fewer_bits_predict_nearly_the_same(method: str) -> None:
    ours = opened(gpt(d_model=64))
    ids_BT = tokens(2, 24)
    exact_BTV, rounded_BTV = (Engine(ours, method_name=m, num_slots=2).score(ids_BT) for m in ("fp32", method))
    divergence = torch.nn.functional.kl_div(
        rounded_BTV.log_softmax(-1), exact_BTV.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert 0 < divergence / 24 < 1e-2
    assert not torch.equal(exact_BTV, rounded_BTV)


def test_tokens_beyond_the_tokenizers_are_never_offered() -> None:
    engine = Engine(opened(gpt(vocab_size=320), ByteTokenizer()))
    assert engine.prefill(0, [1, 2, 3], 0).shape == (256,)
    assert engine.decode(torch.tensor([4]), torch.tensor([3])).shape == (1, 256)


def test_packing_leaves_the_opened_weights_alone() -> None:
    ours = opened(gpt())
    before = {name: tensor.clone() for name, tensor in ours.weights.items()}
    engine = Engine(ours)
    for buffer in engine.network.buffers():
        buffer.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.weights.items())


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown method 'int3'.*Allowed: "):
        Engine(opened(gpt()), method_name="int3")
