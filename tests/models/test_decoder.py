"""The decoder against Hugging Face's GPT-2 and Llama, and the properties that a causal model must have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.models.model_configs import gpt, llama, models
from worldsize.config.schema import ModelConfig
from worldsize.models.build import build
from worldsize.models.decoder import Decoder

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def tokens(model: ModelConfig, num_samples: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(model.vocab_size or 0, (num_samples, model.context_length), generator=generator)


def random_weights(reference: torch.nn.Module) -> dict[str, Tensor]:
    """Fill the reference with weights large enough that every path shows in the logits (biases and norms too)."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            shift = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(shift + 0.15 * torch.randn(parameter.shape, generator=generator))
    return reference.state_dict()


def from_hf_gpt2(state: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Rename Hugging Face's GPT-2 weights; its Conv1D keeps (in, out), a linear (out, in)."""
    parts = {"ln_1": "attention_norm", "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out"}
    parts |= {"ln_2": "feed_forward_norm", "mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down"}
    ours = {
        "token_embedding.weight": state["transformer.wte.weight"],
        "position_embedding.weight": state["transformer.wpe.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"final_norm.{kind}"] = state[f"transformer.ln_f.{kind}"]
        for layer in range(num_layers):
            for theirs, name in parts.items():
                value = state[f"transformer.h.{layer}.{theirs}.{kind}"]
                ours[f"blocks.{layer}.{name}.{kind}"] = value.T if value.ndim == 2 else value
    return ours


def from_hf_llama(state: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    ours = {
        "token_embedding.weight": state["model.embed_tokens.weight"],
        "final_norm.weight": state["model.norm.weight"],
        "head.weight": state["lm_head.weight"],
    }
    for layer in range(num_layers):
        old, new = f"model.layers.{layer}", f"blocks.{layer}"
        ours[f"{new}.attention_norm.weight"] = state[f"{old}.input_layernorm.weight"]
        ours[f"{new}.feed_forward_norm.weight"] = state[f"{old}.post_attention_layernorm.weight"]
        ours[f"{new}.attention.qkv.weight"] = torch.cat([state[f"{old}.self_attn.{x}_proj.weight"] for x in "qkv"])
        ours[f"{new}.attention.out.weight"] = state[f"{old}.self_attn.o_proj.weight"]
        ours[f"{new}.feed_forward.up.weight"] = torch.cat([state[f"{old}.mlp.{x}_proj.weight"] for x in ("gate", "up")])
        ours[f"{new}.feed_forward.down.weight"] = state[f"{old}.mlp.down_proj.weight"]
    return ours


def assert_same_logits(
    model: ModelConfig, ours: dict[str, Tensor], reference: torch.nn.Module, dtype: torch.dtype
) -> None:
    decoder = Decoder(model)
    decoder.load_state_dict(ours)
    tokens_BT = tokens(model)
    with torch.no_grad():
        expected_BTV = reference.to(dtype)(tokens_BT).logits
        got_BTV = decoder.to(dtype)(tokens_BT)
    assert expected_BTV.std() > 0.5, "logits too flat to tell two models apart"
    torch.testing.assert_close(got_BTV, expected_BTV, rtol=0, atol=TOLERANCE[dtype] * float(expected_BTV.abs().max()))


@pytest.mark.hf
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_equal_hugging_face_gpt2(dtype: torch.dtype) -> None:
    transformers = pytest.importorskip("transformers")
    model = gpt(num_layers=3, d_model=48, num_heads=4)
    config = transformers.GPT2Config(
        n_layer=3, n_embd=48, n_head=4, vocab_size=61, n_positions=24, bos_token_id=0, eos_token_id=0
    )
    reference = transformers.GPT2LMHeadModel(config).eval()
    ours = from_hf_gpt2(random_weights(reference), num_layers=3)
    assert_same_logits(model, ours, reference, dtype)


@pytest.mark.hf
def test_logits_equal_hugging_face_llama() -> None:
    """In fp32 only: Hugging Face computes rotary tables and norms in fp32 whatever the model's dtype."""
    transformers = pytest.importorskip("transformers")
    model = llama(num_layers=3, d_model=48, num_heads=4, num_kv_heads=2, d_ff=100, rope_theta=500.0)
    config = transformers.LlamaConfig(
        num_hidden_layers=3,
        hidden_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=100,
        vocab_size=61,
        max_position_embeddings=24,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    reference = transformers.LlamaForCausalLM(config).eval()
    ours = from_hf_llama(random_weights(reference), num_layers=3)
    assert_same_logits(model, ours, reference, torch.float32)


@given(models())
@settings(max_examples=40, deadline=None)
def test_a_later_token_does_not_change_earlier_logits(model: ModelConfig) -> None:
    decoder = build(model, 0, "cpu").double()
    tokens_BT = tokens(model, num_samples=2)
    position = model.context_length // 2
    changed_BT = tokens_BT.clone()
    changed_BT[:, position:] = (changed_BT[:, position:] + 1) % (model.vocab_size or 1)
    before_BTV, after_BTV = decoder(tokens_BT), decoder(changed_BT)
    torch.testing.assert_close(before_BTV[:, :position], after_BTV[:, :position], rtol=0, atol=1e-13)
    assert not torch.equal(before_BTV[:, position], after_BTV[:, position])


def test_an_earlier_token_changes_later_logits() -> None:
    for model in (gpt(), llama()):
        decoder = build(model, 0, "cpu").double()
        tokens_BT = tokens(model)
        changed_BT = tokens_BT.clone()
        changed_BT[:, 0] = (changed_BT[:, 0] + 1) % 61
        assert (decoder(tokens_BT)[:, -1] - decoder(changed_BT)[:, -1]).abs().max() > 1e-9


def test_rotary_attention_depends_on_distance_alone() -> None:
    """A run of equal tokens looks the same from each of its positions."""
    model = llama(context_length=24)
    decoder = build(model, 0, "cpu").double()
    same_BT = torch.full((1, 24), 5)
    logits_BTV = decoder(same_BT)
    torch.testing.assert_close(logits_BTV[:, 3], logits_BTV[:, 20], rtol=0, atol=1e-9)


def test_dropout_acts_only_in_training() -> None:
    model = gpt(dropout=0.5)
    decoder, plain = build(model, 0, "cpu"), build(gpt(), 0, "cpu")
    tokens_BT = tokens(model)
    torch.testing.assert_close(decoder.eval()(tokens_BT), plain.eval()(tokens_BT), rtol=0, atol=0)
    assert not torch.allclose(decoder.train()(tokens_BT), decoder.train()(tokens_BT))


def test_no_buffers_at_all() -> None:
    for model in (gpt(), llama()):
        assert list(Decoder(model).buffers()) == []


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens do not fit the model's context of 24"):
        build(gpt(), 0, "cpu")(torch.zeros(1, 25, dtype=torch.long))
