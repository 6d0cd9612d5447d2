"""Names and shapes of Hugging Face's GPT-2 and Llama weights as ours, and back: one table for both directions.

GPT-2 keeps its linears as (in, out), ours are (out, in); Llama keeps queries, keys and values (and gate and value of
the feed-forward layer) apart, ours are fused in that order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsize.config.schema import ModelConfig
from worldsize.errors import UserError
from worldsize.models.cost import block_prefixes, dims_of, parameter_shapes
from worldsize.models.hf_config import Family

NOT_WEIGHTS = re.compile(r"(\.attn\.(masked_)?bias|rotary_emb\.inv_freq)$")
"""Masks and tables that older versions of the library stored beside the weights."""

GPT2_NAMES = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}
LLAMA_NAMES = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "feed_forward_norm": ("post_attention_layernorm",),
    "feed_forward.up": ("mlp.gate_proj", "mlp.up_proj"),
    "feed_forward.down": ("mlp.down_proj",),
}


@dataclass(frozen=True)
class Entry:
    """One parameter of ours and where it lies in theirs."""

    ours: str
    shape: tuple[int, ...]
    theirs: tuple[str, ...]
    """Several are the rows of ours, one after the other."""
    rows: tuple[int, ...]
    """How many rows of ours each of theirs is."""
    transposed: bool = False
    optional: bool = False
    """Ours may lack it, and theirs is then zeros."""


def table(model: ModelConfig, family: Family) -> list[Entry]:
    """Return an entry for every tensor of a Hugging Face model of this shape, in our order."""
    shapes = parameter_shapes(model.model_copy(update={"bias": True}) if family == "gpt2" else model)
    return [_entry(name, shape, model, family) for name, shape in shapes.items()]


def _entry(name: str, shape: tuple[int, ...], model: ModelConfig, family: Family) -> Entry:
    module, kind = name.rsplit(".", 1)
    block = next((p for p in block_prefixes(model) if module.startswith(f"{p}.")), None)
    within = module.removeprefix(f"{block}.")
    optional = family == "gpt2" and not model.bias and kind == "bias"
    if block is None:
        return Entry(name, shape, (f"{_outside(within, family)}.{kind}",), shape[:1], optional=optional)
    index = block.split(".")[1]
    if family == "gpt2":
        theirs = f"transformer.h.{index}.{GPT2_NAMES[within]}.{kind}"
        return Entry(name, shape, (theirs,), shape[:1], len(shape) == 2, optional)
    parts = LLAMA_NAMES[within]
    rows = shape[:1] if len(parts) == 1 else dims_of(model).qkv_sizes if len(parts) == 3 else (shape[0] // 2,) * 2
    return Entry(name, shape, tuple(f"model.layers.{index}.{part}.{kind}" for part in parts), rows)


def _outside(module: str, family: Family) -> str:
    names = {
        "gpt2": {"token_embedding": "transformer.wte", "position_embedding": "transformer.wpe"}
        | {"final_norm": "transformer.ln_f", "head": "lm_head"},
        "llama": {"token_embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"},
    }
    return names[family][module]


def weights_from_hf(tensors: Mapping[str, Tensor], model: ModelConfig, family: Family, where: str) -> dict[str, Tensor]:
    """Return our weights, in fp32, from a Hugging Face model's tensors.

    Raises UserError that names every tensor that is missing, of another shape, or not expected.
    """
    prefix = "transformer." if family == "gpt2" else "model."
    bare = not any(name.startswith(prefix) for name in tensors)  # saved from the model without its head
    theirs = {
        name if not bare or name.startswith("lm_head.") else prefix + name: tensor
        for name, tensor in tensors.items()
        if not NOT_WEIGHTS.search(name)
    }
    entries = table(model, family)
    problems = _problems(theirs, entries, model)
    if problems:
        raise UserError(f"{where} does not hold the weights that its config.json describes: {'; '.join(problems)}.")
    return {entry.ours: _ours(theirs, entry) for entry in entries}


def _problems(theirs: dict[str, Tensor], entries: list[Entry], model: ModelConfig) -> list[str]:
    expected = {name: shape for entry in entries for name, shape in _their_shapes(entry).items()}
    if model.tied_head and "lm_head.weight" in theirs:  # a copy of the embedding, or not tied after all
        copy, embedding = theirs["lm_head.weight"], theirs.get(entries[0].theirs[0])
        if embedding is not None and not torch.equal(copy, embedding):
            return ["lm_head.weight differs from the embedding that it is said to be tied to"]
        expected["lm_head.weight"] = entries[0].shape
    missing = [f"{name} is missing" for name in expected if name not in theirs]
    unexpected = [f"{name} was not expected" for name in theirs if name not in expected]
    wrong = [
        f"{name} is {tuple(theirs[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in theirs and tuple(theirs[name].shape) != shape
    ]
    return missing + unexpected + wrong


def _their_shapes(entry: Entry) -> dict[str, tuple[int, ...]]:
    shapes = {name: (rows, *entry.shape[1:]) for name, rows in zip(entry.theirs, entry.rows, strict=True)}
    return {name: shape[::-1] for name, shape in shapes.items()} if entry.transposed else shapes


def _ours(theirs: dict[str, Tensor], entry: Entry) -> Tensor:
    parts = [theirs[name].to(torch.float32) for name in entry.theirs]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (whole.t() if entry.transposed else whole).contiguous()


def weights_to_hf(weights: Mapping[str, Tensor], model: ModelConfig, family: Family) -> dict[str, Tensor]:
    """Return a Hugging Face model's tensors from ours, on the CPU and contiguous. A tied head is no tensor."""
    theirs: dict[str, Tensor] = {}
    for entry in table(model, family):
        whole = torch.zeros(entry.shape) if entry.optional else weights[entry.ours].detach().cpu()
        for name, part in zip(entry.theirs, torch.split(whole, list(entry.rows)), strict=True):
            theirs[name] = (part.t() if entry.transposed else part).contiguous().clone()
    return theirs
