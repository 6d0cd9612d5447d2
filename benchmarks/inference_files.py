"""One GPT-2 with random weights in every peer's format, made once a benchmark from a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SHAPES: dict[str, dict[str, int]] = {
    "gpt2": {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024},
    "small": {"n_layer": 6, "n_embd": 384, "n_head": 6, "vocab_size": 8192, "n_positions": 1024},
}


def write_folder(shape: str, folder: Path) -> None:
    """Write the Hugging Face folder that everybody reads."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(**SHAPES[shape], bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)


def dims(folder: Path) -> dict[str, int]:
    """Return the numbers of its config.json."""
    config: dict[str, int] = json.loads((folder / "config.json").read_text())
    return config


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Return its weights, fp32, without the model's own prefix."""
    from safetensors.numpy import load_file

    return {name.removeprefix("transformer."): value for name, value in load_file(folder / "model.safetensors").items()}


def word(token: int) -> str:
    """The name of a token, where an engine takes words alone."""
    return f"w{token}"


def onnx_file(folder: Path, precision: str) -> Path:
    """Return the graph: fp32, or int8 weights a channel with activations quantized as they come."""
    exact, rounded = folder / "model.fp32.onnx", folder / "model.int8.onnx"
    if not exact.exists():
        _export_onnx(folder, exact)
    if precision == "int8" and not rounded.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(exact, rounded, per_channel=True, weight_type=QuantType.QInt8)
    return rounded if precision == "int8" else exact


def _export_onnx(folder: Path, path: Path) -> None:
    """Write the graph with `onnx.helper`: products stay MatMul, which is what the quantizer looks for."""
    from benchmarks.onnx_graph import gpt2_graph

    gpt2_graph(tensors(folder), dims(folder), path)


def ctranslate2_folder(folder: Path, precision: str) -> Path:
    """Return a folder for CTranslate2, through its specification of decoders."""
    out = folder / f"ctranslate2-{precision}"
    if out.exists():
        return out
    import ctranslate2
    from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

    numbers, weights = dims(folder), tensors(folder)
    spec = TransformerDecoderModelSpec.from_config(
        numbers["n_layer"], numbers["n_head"], pre_norm=True, activation=common_spec.Activation.GELUTanh
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights["wte.weight"]
    decoder.projection.weight = weights["wte.weight"]
    decoder.position_encodings.encodings = weights["wpe.weight"]
    _norm(decoder.layer_norm, weights, "ln_f")
    for index, layer in enumerate(decoder.layer):
        prefix = f"h.{index}."
        _norm(layer.self_attention.layer_norm, weights, prefix + "ln_1")
        _linear(layer.self_attention.linear[0], weights, prefix + "attn.c_attn")
        _linear(layer.self_attention.linear[1], weights, prefix + "attn.c_proj")
        _norm(layer.ffn.layer_norm, weights, prefix + "ln_2")
        _linear(layer.ffn.linear_0, weights, prefix + "mlp.c_fc")
        _linear(layer.ffn.linear_1, weights, prefix + "mlp.c_proj")
    spec.register_vocabulary([word(index) for index in range(numbers["vocab_size"])])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = word(0)
    assert ctranslate2.__version__
    spec.validate()
    spec.optimize(quantization=None if precision == "fp32" else precision)
    out.mkdir()
    spec.save(str(out))
    return out


def _norm(target: Any, weights: dict[str, np.ndarray], name: str) -> None:
    target.gamma, target.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _linear(target: Any, weights: dict[str, np.ndarray], name: str) -> None:
    """GPT-2's folder holds its blocks' weights as (inputs, outputs)."""
    target.weight = np.ascontiguousarray(weights[f"{name}.weight"].T)
    target.bias = weights[f"{name}.bias"]


def gguf_file(folder: Path, precision: str) -> Path:
    """Return a file for llama.cpp: f16, or q8_0 and q4_0 by its own quantizer."""
    half, out = folder / "model.f16.gguf", folder / f"model.{precision}.gguf"
    if not half.exists():
        _write_gguf(folder, half)
    if not out.exists():
        import llama_cpp

        options = llama_cpp.llama_model_quantize_default_params()
        kinds = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
        options.ftype, options.nthread = kinds[precision], 1
        failed = llama_cpp.llama_model_quantize(str(half).encode(), str(out).encode(), options)
        assert not failed, f"llama.cpp cannot quantize {half} to {precision}"
    return out


GGUF_NAMES = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip


def _write_gguf(folder: Path, path: Path) -> None:
    import gguf

    numbers, weights = dims(folder), tensors(folder)
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_context_length(numbers["n_positions"])
    writer.add_embedding_length(numbers["n_embd"])
    writer.add_feed_forward_length(4 * numbers["n_embd"])
    writer.add_block_count(numbers["n_layer"])
    writer.add_head_count(numbers["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(numbers["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("none")
    writer.add_tensor("token_embd.weight", weights["wte.weight"].astype(np.float16))
    writer.add_tensor("position_embd.weight", weights["wpe.weight"])
    for end in ("weight", "bias"):
        writer.add_tensor(f"output_norm.{end}", weights[f"ln_f.{end}"])
        for index in range(numbers["n_layer"]):
            for theirs, name in GGUF_NAMES.items():
                value = weights[f"h.{index}.{theirs}.{end}"]
                if value.ndim == 2:
                    value = np.ascontiguousarray(value.T).astype(np.float16)
                writer.add_tensor(f"blk.{index}.{name}.{end}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
