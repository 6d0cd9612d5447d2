"""Hypothesis strategies for resolved models: every option, sizes that a test can afford."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from worldsize.config.schema import ModelConfig


@st.composite
def models(draw: st.DrawFn, **fixed: Any) -> ModelConfig:
    num_kv_heads = draw(st.integers(1, 3))
    num_heads = num_kv_heads * draw(st.integers(1, 3))
    chosen: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 3)),
        "d_model": num_heads * 2 * draw(st.integers(1, 5)),
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_ff": draw(st.integers(1, 70)),
        "vocab_size": draw(st.integers(2, 90)),
        "context_length": draw(st.integers(2, 17)),
        "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "positions": draw(st.sampled_from(["learned", "rotary"])),
        "activation": draw(st.sampled_from(["gelu", "swiglu"])),
        "bias": draw(st.booleans()),
        "tied_head": draw(st.booleans()),
    }
    return ModelConfig(**chosen | fixed)


def gpt(num_layers: int = 2, d_model: int = 32, num_heads: int = 4, **more: Any) -> ModelConfig:
    """Return a small resolved GPT-2-shaped model."""
    sizes = {"num_kv_heads": num_heads, "d_ff": 4 * d_model, "vocab_size": 61, "context_length": 24}
    return ModelConfig(num_layers=num_layers, d_model=d_model, num_heads=num_heads, **sizes | more)


def llama(**more: Any) -> ModelConfig:
    """Return a small resolved Llama-shaped model: grouped queries, untied head, no bias."""
    options = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False, "tied_head": False}
    return gpt(**{"num_kv_heads": 2, "d_ff": 88} | options | more)
