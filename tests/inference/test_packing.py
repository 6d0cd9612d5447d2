"""Packed models in memory and on disk: names, sizes, and strictness."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tests.inference.models import logits, opened, tokens
from tests.models.model_configs import gpt, llama
from worldsize.config.schema import ModelConfig
from worldsize.errors import UserError
from worldsize.inference.engine import Engine
from worldsize.inference.methods import METHODS, known, method
from worldsize.inference.open_model import refuse_foreign
from worldsize.inference.packing import pack, packed_from, share_quantized, tensors_of
from worldsize.models.cost import num_parameters, parameter_shapes

HERE = [name for name, found in METHODS.items() if found.why_not() is None]
LEAST_ALIKE = {"fp32": 1e-6, "bf16": 0.02, "int4": 0.5, "int4-all": 0.5, "torch-dynamic": 0.15}
"""Relative error of the logits that a method may have on random weights; the others 0.08."""


@pytest.mark.parametrize("model", [gpt(d_model=64), gpt(d_model=64, tied_head=False), llama()], ids=str)
@pytest.mark.parametrize("name", HERE)
def test_what_a_file_holds_gives_the_same_logits(name: str, model: ModelConfig) -> None:
    ours, ids_BT = opened(model), tokens(2, 20)
    packed = pack(ours.weights, model, method(name))
    tensors = {key: tensor.clone() for key, tensor in tensors_of(packed).items()}
    again = packed_from(tensors, model, method(name), "a folder")
    before = Engine(ours, method_name=name, num_slots=2).score(ids_BT)
    loaded = dataclasses.replace(ours, weights={}, quantized=name, packed=again)
    torch.testing.assert_close(Engine(loaded, num_slots=2).score(ids_BT), before, rtol=0, atol=0)
    exact = logits(ours.decoder(), ids_BT)
    error = (before - exact).norm() / exact.norm()
    assert error < LEAST_ALIKE.get(name, 0.08)
    assert name == "fp32" or error > 1e-4


def test_loading_is_strict() -> None:
    model = gpt()
    tensors = tensors_of(pack(opened(model).weights, model, method("int8")))
    scale = "blocks.0.attention.qkv.weight.scale_O"
    tensors["mask"] = tensors.pop(scale)
    tensors["final_norm.weight"] = torch.ones(31)
    tensors["blocks.1.attention.out.weight.weight_OI"] = tensors["blocks.1.attention.out.weight.weight_OI"].float()
    with pytest.raises(UserError) as caught:
        packed_from(tensors, model, method("int8"), "here")
    said = str(caught.value)
    assert f"{scale} is missing" in said
    assert "mask was not expected" in said
    assert "final_norm.weight is (31,) of float32, not (32,) of float32" in said
    assert "out.weight.weight_OI is (32, 32) of float32, not (32, 32) of int8" in said


GPT2_SMALL = gpt(num_layers=12, d_model=768, num_heads=12, vocab_size=50257, context_length=1024)


@pytest.mark.parametrize(("name", "most"), [("bf16", 0.51), ("int8", 0.26), ("int4", 0.19), ("int4-all", 0.15)])
def test_the_size_of_a_gpt2_small(name: str, most: float) -> None:
    """On torch's meta device. The tied embedding is there once; in 8 bits it alone is 0.078 of the fp32 size."""
    weights = {key: torch.empty(shape, device="meta") for key, shape in parameter_shapes(GPT2_SMALL).items()}
    packed = tensors_of(pack(weights, GPT2_SMALL, known(name)))
    size_bytes = sum(tensor.nbytes for tensor in packed.values())
    assert most - 0.02 < size_bytes / (4 * num_parameters(GPT2_SMALL)) <= most
    assert [key for key in packed if key.startswith("head")] == []


def test_the_share_that_is_quantized() -> None:
    model = gpt()
    shapes = parameter_shapes(model)
    kept = sum(math.prod(shape) for name, shape in shapes.items() if len(shape) == 1 or name.startswith("position"))
    total = num_parameters(model)
    assert share_quantized(model, known("int8")) == pytest.approx(1 - kept / total)
    embedding = math.prod(shapes["token_embedding.weight"])
    assert share_quantized(model, known("torch-dynamic")) == pytest.approx(1 - (kept + embedding) / total)
    assert share_quantized(model, known("fp32")) == 0


def test_a_method_that_cannot_run_says_why() -> None:
    missing = [name for name, found in METHODS.items() if found.why_not() is not None]
    for name in missing:
        with pytest.raises(UserError, match=f"method {name} is not here, because: ."):
            method(name)
    assert not {"fp32", "bf16", "int8", "int4", "int4-all"} & set(missing)


def test_a_model_of_other_code_is_refused_by_that_and_not_by_its_names() -> None:
    refuse_foreign(gpt(), Path("out/run"))
    with pytest.raises(UserError, match="out/run was trained by Hugging Face's own code"):
        refuse_foreign(gpt().model_copy(update={"hf_config": {"model_type": "bert"}}), Path("out/run"))
