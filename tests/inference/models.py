"""Small models whose every path shows in the logits, as ours and as Hugging Face's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsize.config.schema import ModelConfig
from worldsize.data.tokenizer import Tokenizer
from worldsize.inference.open_model import OpenedModel
from worldsize.models.cost import parameter_shapes


def hf_gpt2(**more: Any) -> Any:
    """Return a random GPT-2 of the transformers library."""
    import transformers

    options: dict[str, Any] = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 61, "n_positions": 48}
    config = transformers.GPT2Config(**options | {"bos_token_id": 0, "eos_token_id": 0} | more)
    return _filled(transformers.GPT2LMHeadModel(config))


def hf_llama(**more: Any) -> Any:
    """Return a random Llama of the transformers library: grouped queries, untied head."""
    import transformers

    options: dict[str, Any] = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 56,
        "vocab_size": 61,
        "max_position_embeddings": 48,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return _filled(transformers.LlamaForCausalLM(transformers.LlamaConfig(**options | more)))


def _filled(reference: Any) -> Any:
    """Give every parameter values large enough to tell two models apart, biases and norms too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            shift = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(shift + 0.15 * torch.randn(parameter.shape, generator=generator))
    return reference.eval()


def opened(model: ModelConfig, tokenizer: Tokenizer | None = None) -> OpenedModel:
    """Return a model of ours with random weights, as if it had been read from a folder."""
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for name, shape in parameter_shapes(model).items():
        shift = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        weights[name] = shift + 0.15 * torch.randn(shape, generator=generator)
    return OpenedModel(Path("nowhere"), "export", model, weights, tokenizer, None, None)


def tokens(num_rows: int, num_tokens: int, vocab_size: int = 61) -> Tensor:
    return torch.randint(vocab_size, (num_rows, num_tokens), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def logits(module: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Return the logits_BTV of a module of ours or of transformers."""
    out = module(tokens_BT)
    return out if isinstance(out, Tensor) else out.logits


def assert_same_logits(got: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.5, "logits too flat to tell two models apart"
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
