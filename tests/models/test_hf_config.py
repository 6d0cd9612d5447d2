"""Configs of Hugging Face folders: what is ours comes over, what is not is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from tests.models.model_configs import gpt, llama, models
from worldsize.config.schema import ModelConfig
from worldsize.errors import UserError
from worldsize.models.hf_config import hf_from_model, model_from_hf

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 61, "n_positions": 24}
LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 88, "vocab_size": 61, "max_position_embeddings": 24,
    "rms_norm_eps": 1e-5,
}  # fmt: skip


def test_what_a_config_leaves_out_is_as_the_library_has_it() -> None:
    assert model_from_hf(GPT2, "x") == gpt()
    assert model_from_hf(LLAMA, "x") == llama()


@pytest.mark.parametrize(
    ("base", "changed", "named"),
    [
        (LLAMA, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling of type 'linear'"),
        (LLAMA, {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope scaling of type 'llama3'"),
        (LLAMA, {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        (LLAMA, {"sliding_window": 128}, "sliding_window=128"),
        (LLAMA, {"head_dim": 16}, "head_dim=16"),
        (LLAMA, {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        (LLAMA, {"attention_bias": True}, "attention_bias=True with mlp_bias=False"),
        (GPT2, {"activation_function": "relu"}, "activation_function='relu'"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        (GPT2, {"scale_attn_weights": False}, "scale_attn_weights=False"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention=True"),
    ],
)
def test_what_the_decoder_has_not_is_refused_by_name(base: dict[str, Any], changed: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as refusal:
        model_from_hf(base | changed, "folder/config.json")
    assert named in str(refusal.value)
    assert "folder/config.json" in str(refusal.value)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(UserError, match=r"sliding_window=8 .*; nothing says its num_layers"):
        model_from_hf({k: v for k, v in LLAMA.items() if k != "num_hidden_layers"} | {"sliding_window": 8}, "x")


def test_another_architecture_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown model_type in x 'llama4'. Did you mean 'llama'\? Allowed: gpt2, llama"
    ):
        model_from_hf(LLAMA | {"model_type": "llama4"}, "x")


@given(models())
def test_out_and_in_again_is_the_same_model_or_refused(model: ModelConfig) -> None:
    gpt2 = (model.norm, model.activation, model.num_kv_heads) == ("layernorm", "gelu", model.num_heads)
    fits = gpt2 if model.positions == "learned" else (model.norm, model.activation) == ("rmsnorm", "swiglu")
    if not fits:
        with pytest.raises(UserError, match="--format safetensors"):
            hf_from_model(model, None)
        return
    expected = model.model_copy(update={"bias": True}) if model.positions == "learned" else model
    assert model_from_hf(hf_from_model(model, None), "x") == expected
