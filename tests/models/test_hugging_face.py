"""Hugging Face models behind the description: their own parameters and blocks, FLOP against ours of the same shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.model_configs import gpt
from worldsize.config.schema import ModelConfig
from worldsize.errors import UserError
from worldsize.models import cost
from worldsize.models.build import build

pytestmark = pytest.mark.hf
transformers = pytest.importorskip("transformers")

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 24}
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
         "max_position_embeddings": 24}  # fmt: skip
LLAMA = {"model_type": "llama", "num_key_value_heads": 2, **SIZES}
BERT = {"model_type": "bert", **SIZES}


def model_of(hf_config: dict[str, Any], **more: Any) -> ModelConfig:
    kind = "encoder" if hf_config["model_type"] == "bert" else "decoder"
    return gpt(hf_config=hf_config, kind=kind, num_classes=3, **more)


@pytest.mark.parametrize(
    ("hf_config", "blocks"),
    [(GPT2, "model.transformer.h"), (LLAMA, "model.model.layers"), (BERT, "model.bert.encoder.layer")],
)
def test_the_description_is_the_models_own(hf_config: dict[str, Any], blocks: str) -> None:
    model = model_of(hf_config)
    module, described = build(model, 0, "cpu"), cost.describe(model)
    assert dict(described.parameter_shapes) == {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert described.block_prefixes == (f"{blocks}.0", f"{blocks}.1")
    assert described.num_parameters == sum(p.numel() for p in module.parameters())


def test_flop_are_those_of_our_decoder_of_the_same_shape() -> None:
    """GPT-2's code and ours multiply the same matrices: two counts that share nothing but the counter."""
    model, ours = model_of(GPT2), gpt()
    for length in (5, 24):
        for causal in (True, False):
            found = cost.forward_flop_per_sample(model, causal=causal, length=length)
            assert found == pytest.approx(cost.forward_flop_per_sample(ours, causal=causal, length=length), rel=1e-9)


def test_weights_are_a_function_of_config_and_seed() -> None:
    state = torch.get_rng_state()
    one, two, other = (dict(build(model_of(GPT2), seed, "cpu").named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_gives_its_own_weights_and_logits(tmp_path: Path) -> None:
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(vocab_size=61, **SIZES)).eval()
    theirs.save_pretrained(tmp_path / "saved")
    ours = build(gpt(hf=str(tmp_path / "saved"), kind="decoder"), 0, "cpu").eval()
    tokens_BT = torch.randint(61, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens_BT), theirs(tokens_BT).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hf_config", [GPT2, LLAMA])
def test_packed_texts_do_not_see_each_other(hf_config: dict[str, Any]) -> None:
    module = build(model_of(hf_config), 0, "cpu").eval()
    tokens_BT = torch.randint(61, (1, 12))
    segments_BT = torch.tensor([[1] * 5 + [2] * 7])
    together = module(tokens_BT, segments_BT)
    torch.testing.assert_close(together[:, 5:], module(tokens_BT[:, 5:]), rtol=1e-5, atol=1e-6)


def test_dropout_is_the_configs_one_key() -> None:
    for rate in (0.0, 0.25):
        config: Any = build(model_of(GPT2, dropout=rate), 0, "cpu").model.config
        assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (rate, rate, rate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hf_config": {"model_type": "gpt3"}}, r"model could not be had \("),
        ({"hf_config": {**GPT2, "n_positions": 8}}, "has 8 positions. Use model.context_length=8 or less"),
        ({"hf_config": {**GPT2, "vocab_size": 10}}, "has 10 rows of vocabulary, the data needs 61"),
        ({"hf_config": GPT2, "kind": "encoder", "num_classes": 3}, "names no pad_token_id"),
        ({"hf": "no/such/folder"}, r"model.hf='no/such/folder': the model could not be had"),
    ],
)
def test_what_is_said_of_a_model_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cost.describe(gpt(**change))
