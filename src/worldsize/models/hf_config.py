"""A Hugging Face config.json as our ModelConfig, and back. Torch-free.

Two families fit the decoder: GPT-2 (layer norm, learned positions, GELU) and Llama (RMSNorm, rotary positions, SwiGLU,
grouped queries). What a config asks for beyond that is refused by its name, never left out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from worldsize.config.schema import ModelConfig
from worldsize.errors import UserError, unknown
from worldsize.models.cost import dims_of

Family = Literal["gpt2", "llama"]
FAMILIES: tuple[Family, ...] = ("gpt2", "llama")
"""Values of config.json's model_type that we have."""

GELU_TANH = ("gelu_new", "gelu_pytorch_tanh")
GPT2_ONLY = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
"""Options of GPT-2, with the only value that our decoder has."""

MISSING = object()


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """Return the family that a config.json names. Raises UserError when it is none of ours."""
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise unknown(f"model_type in {where}", str(model_type), FAMILIES)
    family: Family = model_type
    return family


def model_from_hf(config: Mapping[str, Any], where: str) -> ModelConfig:
    """Return the ModelConfig of a config.json; `where` is what errors call it.

    Dropout, a choice of training, is not taken over. Raises UserError that names what our decoder does not have.
    """
    problems: list[str] = []
    fields = _gpt2(config, problems) if family_of(config, where) == "gpt2" else _llama(config, problems)
    missing = [name for name, value in fields.items() if value is MISSING]
    problems += [f"nothing says its {name}" for name in missing]
    if problems:
        raise UserError(
            f"{where} asks for what worldsize's decoder does not have: {'; '.join(problems)}. "
            "It has GPT-2 and Llama as they were published."
        )
    model = ModelConfig(**fields)
    try:
        dims_of(model)
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from None
    return model


def _gpt2(config: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    _only(config, GPT2_ONLY, problems)
    activation = config.get("activation_function", "gelu_new")
    if activation not in GELU_TANH:
        problems.append(f"activation_function={activation!r} (only {' or '.join(map(repr, GELU_TANH))})")
    width = config.get("n_embd", MISSING)
    heads = config.get("n_head", MISSING)
    return {
        "num_layers": config.get("n_layer", MISSING),
        "d_model": width,
        "num_heads": heads,
        "num_kv_heads": heads,
        "d_ff": config.get("n_inner") or (4 * width if isinstance(width, int) else MISSING),
        "vocab_size": config.get("vocab_size", MISSING),
        "context_length": config.get("n_positions", config.get("n_ctx", MISSING)),
        "norm": "layernorm",
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "positions": "learned",
        "activation": "gelu",
        "bias": True,
        "tied_head": config.get("tie_word_embeddings", True),
    }


def _llama(config: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    width, heads = config.get("hidden_size", MISSING), config.get("num_attention_heads", MISSING)
    head_width = config.get("head_dim")
    if head_width is not None and MISSING not in (width, heads) and head_width * heads != width:
        problems.append(f"head_dim={head_width} (only hidden_size / num_attention_heads = {width // heads})")
    bias = bool(config.get("attention_bias", False))
    if bool(config.get("mlp_bias", False)) != bias:
        problems.append(f"attention_bias={bias} with mlp_bias={not bias} (only both or neither)")
    if config.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act={config['hidden_act']!r} (only 'silu')")
    if config.get("sliding_window") is not None:
        problems.append(f"sliding_window={config['sliding_window']} (only full attention)")
    return {
        "num_layers": config.get("num_hidden_layers", MISSING),
        "d_model": width,
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "d_ff": config.get("intermediate_size", MISSING),
        "vocab_size": config.get("vocab_size", MISSING),
        "context_length": config.get("max_position_embeddings", MISSING),
        "norm": "rmsnorm",
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "positions": "rotary",
        "rope_theta": _rope_theta(config, problems),
        "activation": "swiglu",
        "bias": bias,
        "tied_head": config.get("tie_word_embeddings", False),
    }


def _rope_theta(config: Mapping[str, Any], problems: list[str]) -> float:
    """Return the base of the rotary frequencies; scaled ones are a problem. Both spellings of the library are read."""
    rope = dict(config.get("rope_parameters") or {})
    scaling = config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
    if kind != "default":
        problems.append(f"rope scaling of type {kind!r} (only unscaled rotary positions)")
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        problems.append("partial_rotary_factor other than 1 (only whole heads turn)")
    return float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))


def _only(config: Mapping[str, Any], allowed: Mapping[str, Any], problems: list[str]) -> None:
    problems += [
        f"{key}={config[key]!r} (only {value!r})" for key, value in allowed.items() if config.get(key, value) != value
    ]


def family_for(model: ModelConfig) -> Family:
    """Return the family that can hold a model of ours. Raises UserError that says which value stands in the way."""
    dims = dims_of(model)
    if model.positions == "learned":
        needs: dict[str, Any] = {"norm": "layernorm", "activation": "gelu", "num_kv_heads": dims.num_heads}
        family: Family = "gpt2"
    else:
        needs, family = {"norm": "rmsnorm", "activation": "swiglu"}, "llama"
    wrong = {key: value for key, value in needs.items() if getattr(model, key) != value}
    if wrong:
        given = ", ".join(f"model.{key}={getattr(model, key)}" for key in wrong)
        needed = ", ".join(f"model.{key}={value}" for key, value in wrong.items())
        raise UserError(
            f"no Hugging Face architecture is this model: with model.positions={model.positions} it would be {family}, "
            f"which has {needed}, but this has {given}. Export it with --format safetensors."
        )
    return family


def hf_from_model(model: ModelConfig, end_of_text: int | None) -> dict[str, Any]:
    """Return the config.json of a model. `end_of_text` is that token's id, where the tokenizer has one.

    GPT-2 has biases always; a model without gets zeros for them (hf_weights.py), which changes nothing.
    Raises UserError when no family holds the model.
    """
    family, dims = family_for(model), dims_of(model)
    common = {
        "model_type": family,
        "vocab_size": dims.vocab_size,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": model.tied_head,
        "dtype": "float32",
        "use_cache": True,
    }
    if family == "gpt2":
        return common | {
            "architectures": ["GPT2LMHeadModel"],
            "n_layer": dims.num_layers,
            "n_embd": dims.d_model,
            "n_head": dims.num_heads,
            "n_inner": dims.d_ff,
            "n_positions": dims.context_length,
            "n_ctx": dims.context_length,  # read by llama.cpp's converter; transformers has dropped it
            "layer_norm_epsilon": model.norm_eps,
            "activation_function": "gelu_new",
            "resid_pdrop": model.dropout,
            "embd_pdrop": model.dropout,
            "attn_pdrop": model.dropout,
        }
    return common | {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": dims.num_layers,
        "hidden_size": dims.d_model,
        "num_attention_heads": dims.num_heads,
        "num_key_value_heads": dims.num_kv_heads,
        "head_dim": dims.d_head,
        "intermediate_size": dims.d_ff,
        "max_position_embeddings": dims.context_length,
        "rms_norm_eps": model.norm_eps,
        "hidden_act": "silu",
        "attention_bias": model.bias,
        "mlp_bias": model.bias,
        "attention_dropout": model.dropout,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "rope_theta": model.rope_theta,  # as transformers 4 spells it
    }
