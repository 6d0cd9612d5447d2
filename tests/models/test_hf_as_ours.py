"""Hugging Face's GPT-2 and Llama as our decoder, from their config or folder: the same logits as their own code's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldsize.config.cautions import cautions
from worldsize.config.load import Loaded, load, resolve
from worldsize.config.rules import check
from worldsize.errors import UserError
from worldsize.models.build import build
from worldsize.models.decoder import Decoder

pytestmark = pytest.mark.hf
transformers = pytest.importorskip("transformers")

GPT2 = "model.hf_config={model_type: gpt2, n_layer: 2, n_embd: 32, n_head: 4, n_positions: 48}"
LLAMA = (
    "model.hf_config={model_type: llama, num_hidden_layers: 2, hidden_size: 32, intermediate_size: 64, "
    "num_attention_heads: 4, num_key_value_heads: 2, rope_theta: 500.0}"
)


def resolved(*overrides: str) -> Loaded:
    loaded = load(None, ["device.kind=cpu", "model.context_length=24", *overrides])
    check(loaded.config, 2)
    return resolve(loaded, 2, 257)


@pytest.mark.parametrize("given", [GPT2, LLAMA])
def test_a_config_that_is_cut_is_ours_with_the_logits_of_theirs(given: str) -> None:
    """A context shorter than the table of positions leaves the rest of it out."""
    theirs = build(resolved(given).config.model, 3, "cpu").eval()
    cut = resolved(given, "parallel.strategy=pipeline")
    ours = build(cut.config.model, 3, "cpu").eval()
    assert isinstance(ours, Decoder)
    tokens_BT = torch.randint(257, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens_BT), theirs(tokens_BT), rtol=0, atol=1e-5)
    assert (cut.origins["model.implementation"].value, cut.origins["model.implementation"].source) == (
        "worldsize",
        "derived",
    )


def test_a_folder_keeps_its_weights_and_its_vocabulary(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=4, n_positions=24, vocab_size=260)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    model = resolved(f"model.hf={tmp_path}", "parallel.strategy=tensor").config.model
    assert (model.vocab_size, model.num_layers, model.d_model) == (260, 2, 32)
    tokens_BT = torch.randint(257, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = build(model, 0, "cpu").eval()(tokens_BT)
        torch.testing.assert_close(ours, theirs(tokens_BT).logits, rtol=0, atol=1e-5)


def test_ours_can_be_asked_for_where_nothing_is_cut() -> None:
    model = resolved(GPT2, "parallel.strategy=ddp", "model.implementation=worldsize").config.model
    assert isinstance(build(model, 0, "cpu"), Decoder)
    assert not isinstance(build(resolved(GPT2, "parallel.strategy=ddp").config.model, 0, "cpu"), Decoder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.hf_config={model_type: bert}"], r"'bert'. Allowed: gpt2, llama.* parallel.strategy=allreduce, ddp"),
        (["model.hf_config={model_type: gpt2, activation_function: relu}"], "activation_function='relu'"),
        ([GPT2, "model.implementation=hugging_face"], "cuts the model.* model.implementation=hugging_face forbids it"),
        ([GPT2, "data.task=classification", "data.source=a.csv"], "no classifier"),
        (["model.hf_config={model_type: gpt2, n_positions: 8}"], "has 8 positions. Use model.context_length=8 or less"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_what_runs_it(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved("parallel.strategy=pipeline", *overrides)


def test_that_ours_runs_is_said() -> None:
    def said(*overrides: str) -> list[str]:
        return cautions(load(None, [GPT2, *overrides]).config)

    assert said("parallel.strategy=ddp") == []
    (caution,) = said("parallel.strategy=model_parallel")
    assert caution.startswith("worldsize's own decoder runs with the weights of model.hf_config")
    (unused,) = cautions(load(None, ["model.implementation=worldsize"]).config)
    assert "has no effect without model.hf" in unused
