"""Other tasks and other people's models through the strategies: each row must equal one device."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from tests.conformance.steps import NUM_CLASSES, config_of, train
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.data.sampler import combine
from worldsize.models.hf_as_ours import as_built

CLASSIFIER = {"data": {"task": "classification"}, "model": {"kind": "encoder", "num_classes": NUM_CLASSES}}
PACKED = {"data": {"task": "translation"}}
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
         "max_position_embeddings": 16}  # fmt: skip
GPT2 = {"model": {"hf_config": {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16}}}
LLAMA = {"model": {"hf_config": {"model_type": "llama", "num_key_value_heads": 2, **SIZES}}}
BERT = {"data": CLASSIFIER["data"], "model": {**CLASSIFIER["model"], "hf_config": {"model_type": "bert", **SIZES}}}
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "encoder": CLASSIFIER,
    "encoder, class from a token": {**CLASSIFIER, "model": {**CLASSIFIER["model"], "pooling": "cls"}},
    "encoder, rotary": {**CLASSIFIER, "model": {**CLASSIFIER["model"], "positions": "rotary"}},
    "packed pairs": PACKED,
    "odd vocabulary": {"model": {"vocab_size": 65}},
    "packed pairs, rotary": {**PACKED, "model": {"positions": "rotary"}},
    "Hugging Face GPT-2": GPT2,
    "Hugging Face Llama": LLAMA,
    "Hugging Face Llama, packed pairs": {**PACKED, **LLAMA},
    "Hugging Face BERT": BERT,
}
ALL = ("allreduce", "ddp", "fsdp")
ROWS = [
    *((name, strategy) for name in ("encoder", "Hugging Face GPT-2", "Hugging Face Llama", "Hugging Face BERT")
      for strategy in ALL),
    ("encoder, class from a token", "ddp"),
    ("encoder, rotary", "fsdp"),
    ("packed pairs", "ddp"),
    ("packed pairs, rotary", "fsdp"),
    ("Hugging Face Llama, packed pairs", "fsdp"),
    ("encoder", "tensor"),
    ("encoder, class from a token", "tensor"),
    ("encoder, rotary", "pipeline"),
    ("encoder", "model_parallel"),
    ("packed pairs", "tensor"),
    ("odd vocabulary", "tensor"),
    ("packed pairs", "pipeline"),
]  # fmt: skip


def config(name: str, strategy: str) -> Config:
    parallel = {"strategy": strategy, **({"pipeline_schedule": "1f1b"} if strategy == "pipeline" else {})}
    return config_of(**{**MODELS[name], "parallel": parallel, "train": {"micro_batch": 2}})


@functools.cache
def alone(name: str) -> dict[str, Any]:
    return train(0, 1, config(name, "single"))


def same(ranks: list[dict[str, Any]], single: dict[str, Any]) -> None:
    """Hold what the ranks made against one device: start, losses, norms, gradients, weights, evaluation, samples,
    bytes."""
    sums = [sum(losses) for losses in zip(*(one["losses"] for one in ranks), strict=True)]
    assert sums == pytest.approx(single["losses"], rel=1e-6)
    assert len({one["checksum"] for one in ranks}) == 1
    assert combine(one["digest"] for one in ranks) == combine([single["digest"]])
    assert set().union(*(one["state_names"] for one in ranks)) == single["state_names"]
    evaluated = [one["evaluated"] for one in ranks if one["evaluated"] is not None]
    assert evaluated == pytest.approx([single["evaluated"]] * len(evaluated), rel=1e-4)
    for one in ranks:
        assert all(torch.equal(one["before"][name], weight) for name, weight in single["before"].items())
        assert one["norms"] == pytest.approx(single["norms"], rel=1e-5)
        assert one["observed"] == one["predicted"] != []
        for name, gradient in one["gradients"].items():
            close(gradient, single["gradients"][name], name)
        for name, weight in single["after"].items():
            close(one["after"][name], weight, name)
        if single["logits"] is not None:
            torch.testing.assert_close(one["logits"], single["logits"], rtol=0, atol=1e-4)


def close(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5, msg=lambda m: name + m)


@pytest.mark.parametrize(("name", "strategy"), ROWS)
def test_two_ranks_are_one_device(name: str, strategy: str, two_ranks: Ranks) -> None:
    if name.startswith("Hugging Face"):
        pytest.importorskip("transformers")
    same(two_ranks.run(functools.partial(train, observe=True), config(name, strategy)), alone(name))


@pytest.mark.parametrize(("name", "strategy"), [("Hugging Face GPT-2", "pipeline"), ("Hugging Face Llama", "tensor")])
def test_a_hugging_face_model_that_is_cut_trains_as_its_own_code_does(
    name: str, strategy: str, two_ranks: Ranks
) -> None:
    pytest.importorskip("transformers")
    cut, whole = as_built(config(name, strategy)), alone(name)
    ranks = two_ranks.run(functools.partial(train, observe=True), cut)
    sums = [sum(losses) for losses in zip(*(one["losses"] for one in ranks), strict=True)]
    assert sums == pytest.approx(whole["losses"], rel=1e-5)
    assert combine(one["digest"] for one in ranks) == combine([whole["digest"]])
    for one in ranks:
        assert one["norms"] == pytest.approx(whole["norms"], rel=1e-4)
        assert one["observed"] == one["predicted"] != []


@pytest.mark.parametrize(("name", "strategy"), [("encoder", "fsdp"), ("Hugging Face GPT-2", "ddp")])
def test_four_ranks_are_one_device(name: str, strategy: str, four_ranks: Ranks) -> None:
    pytest.importorskip("transformers")
    settings = config_of(**{**MODELS[name], "parallel": {"strategy": strategy}, "train": {"micro_batch": 2}})
    same(four_ranks.run(functools.partial(train, observe=True), settings), alone(name))


def test_weights_move_and_a_class_is_learned() -> None:
    single = alone("encoder")
    assert single["losses"][-1] < single["losses"][0]
    assert any(not torch.equal(single["before"][name], weight) for name, weight in single["after"].items())
