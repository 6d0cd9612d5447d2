"""Hugging Face folders in and out: the same logits as the transformers library, the tokenizer along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.inference.models import assert_same_logits, hf_gpt2, hf_llama, logits, opened, tokens
from tests.models.model_configs import gpt, llama
from worldsize.config.schema import DataConfig
from worldsize.data.corpus import open_corpus
from worldsize.data.tokenizer import ByteTokenizer, open_tokenizer
from worldsize.errors import UserError
from worldsize.inference.export import export
from worldsize.inference.open_model import open_model

pytestmark = pytest.mark.hf
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

REFERENCES = {
    "gpt2": hf_gpt2,
    "gpt2 untied": lambda: hf_gpt2(tie_word_embeddings=False),
    "gpt2 wide": lambda: hf_gpt2(n_inner=72, layer_norm_epsilon=1e-3),
    "llama": hf_llama,
    "llama tied": lambda: hf_llama(tie_word_embeddings=True),
    "llama with biases": lambda: hf_llama(attention_bias=True, mlp_bias=True, num_key_value_heads=4),
    "llama other base": lambda: hf_llama(rope_parameters={"rope_type": "default", "rope_theta": 300.0}),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_same_logits_in_and_same_logits_out(name: str, tmp_path: Path) -> None:
    reference = REFERENCES[name]()
    reference.save_pretrained(tmp_path / "in")
    ids_BT = tokens(3, 48)
    expected_BTV = logits(reference, ids_BT)
    model = open_model(tmp_path / "in")
    assert_same_logits(logits(model.decoder(), ids_BT), expected_BTV)
    export(model, tmp_path / "out", "huggingface")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(again, ids_BT), expected_BTV, rtol=0, atol=1e-6)
    export(model, tmp_path / "ours", "safetensors")
    assert open_model(tmp_path / "ours").kind == "export"
    assert_same_logits(logits(open_model(tmp_path / "ours").decoder(), ids_BT), expected_BTV)


@pytest.mark.parametrize("model", [gpt(bias=False), gpt(tied_head=False), llama(bias=True), llama(tied_head=True)])
def test_models_of_ours_open_in_transformers(model: Any, tmp_path: Path) -> None:
    """GPT-2 without biases goes out with biases of zero."""
    ours = opened(model)
    export(ours, tmp_path / "out", "huggingface")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids_BT = tokens(2, model.context_length)
    assert_same_logits(logits(theirs, ids_BT), logits(ours.decoder(), ids_BT))


def test_sharded_folders_and_half_precision(tmp_path: Path) -> None:
    hf_llama().to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    reference = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    model = open_model(tmp_path)
    assert {tensor.dtype for tensor in model.weights.values()} == {torch.float32}
    assert_same_logits(logits(model.decoder(), tokens(1, 20)), logits(reference, tokens(1, 20)))


def test_names_without_prefix_and_old_buffers_are_taken(tmp_path: Path) -> None:
    """The first published GPT-2 folders have neither `transformer.` nor a head, and carry their masks."""
    reference = hf_gpt2()
    reference.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = safetensors.load_file(file)
    stored = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    stored["h.0.attn.bias"] = torch.ones(1, 1, 48, 48).tril()
    safetensors.save_file(stored, file)
    assert_same_logits(logits(open_model(tmp_path).decoder(), tokens(1, 20)), logits(reference, tokens(1, 20)))


def change_missing(stored: dict[str, torch.Tensor]) -> None:
    del stored["transformer.h.1.mlp.c_fc.bias"]


def change_unexpected(stored: dict[str, torch.Tensor]) -> None:
    stored["transformer.h.2.ln_1.weight"] = torch.ones(32)


def change_shape(stored: dict[str, torch.Tensor]) -> None:
    stored["transformer.h.0.mlp.c_fc.weight"] = torch.ones(128, 32)


def change_untied(stored: dict[str, torch.Tensor]) -> None:
    stored["lm_head.weight"] = torch.ones(61, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_missing, "transformer.h.1.mlp.c_fc.bias is missing"),
        (change_unexpected, "transformer.h.2.ln_1.weight was not expected"),
        (change_shape, r"transformer.h.0.mlp.c_fc.weight is \(128, 32\), not \(32, 128\)"),
        (change_untied, "lm_head.weight differs from the embedding"),
    ],
)
def test_loading_is_strict(change: Any, message: str, tmp_path: Path) -> None:
    hf_gpt2().save_pretrained(tmp_path)
    stored = safetensors.load_file(tmp_path / "model.safetensors")
    change(stored)
    safetensors.save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        open_model(tmp_path)


def test_damaged_folders_say_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model"):
        open_model(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"is no model\. MODEL is a run's folder"):
        open_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        open_model(tmp_path)
    hf_gpt2().save_pretrained(tmp_path, max_shard_size="20KB")
    first = sorted(tmp_path.glob("model-*.safetensors"))[0]
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{first.name} is damaged"):
        open_model(tmp_path)
    first.unlink()
    with pytest.raises(UserError, match=f"names {first.name}, which is not in the folder"):
        open_model(tmp_path)
    for file in tmp_path.glob("model*"):
        file.unlink()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"holds no weights.*It holds pytorch_model.bin"):
        open_model(tmp_path)


SAMPLE = "Grüße, wörld!\n\tx = [1, 22, 333]  # 日本語 👍\r\n"


@pytest.mark.parametrize("spec", ["bytes", "bpe:300"])
def test_tokenizers_of_ours_travel_along(spec: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three two one\n" * 200)
    corpus = open_corpus(DataConfig(source=str(text)))
    tokenizer = ByteTokenizer() if spec == "bytes" else open_tokenizer(spec, corpus, tmp_path)
    export(opened(gpt(vocab_size=320), tokenizer), tmp_path / "out", "huggingface")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.encode(SAMPLE) == tokenizer.encode(SAMPLE)
    assert theirs.decode(tokenizer.encode(SAMPLE)) == SAMPLE
    assert theirs.eos_token_id == tokenizer.end_of_text
    again = open_model(tmp_path / "out").needs_tokenizer()
    assert again.encode(SAMPLE) == tokenizer.encode(SAMPLE)
    assert again.end_of_text == tokenizer.end_of_text
    if spec == "bytes":
        assert list(SAMPLE.encode()) == theirs.encode(SAMPLE)


def test_a_folders_own_tokenizer_files_are_copied(tmp_path: Path) -> None:
    hf_gpt2().save_pretrained(tmp_path / "in")
    for name, content in {"vocab.json": '{"a": 0, "b": 1, "ab": 2}', "merges.txt": "#version: 0.2\na b\n"}.items():
        (tmp_path / "in" / name).write_text(content)
    model = open_model(tmp_path / "in")
    assert model.needs_tokenizer().encode("abb") == [2, 1]
    export(model, tmp_path / "out", "huggingface")
    assert (tmp_path / "out" / "merges.txt").read_text() == "#version: 0.2\na b\n"
    assert open_model(tmp_path / "out").needs_tokenizer().encode("abb") == [2, 1]


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="is there already"):
        export(opened(gpt()), tmp_path / "out", "huggingface")
    with pytest.raises(UserError, match="no Hugging Face architecture is this model"):
        export(opened(gpt(activation="swiglu")), tmp_path / "other", "huggingface")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    with pytest.raises(UserError, match="unknown format 'gguf'"):
        export(opened(gpt()), tmp_path / "other", "gguf")


def test_what_llama_cpps_converter_reads_is_there(tmp_path: Path) -> None:
    """It looks for n_ctx in a GPT-2's config, which transformers itself has dropped."""
    export(opened(gpt()), tmp_path / "out", "huggingface")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["n_ctx"] == config["n_positions"] == 24
