"""Peers of `inference_speed`: each opens the same weights and answers three questions, in its own way at its best.

A peer has `decode(num_rows, num_tokens)`: seconds for so many steps of greedy decoding after a prompt of PROMPT
tokens, the prompt left out; and `prefill(num_tokens)`: seconds until the logits after a prompt's last token.
`read_bytes` is what one step reads of the weights. All compute on one thread.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import inference_files as files

PROMPT = 16
SLOTS = 16
LONGEST = 576
"""Positions that a peer makes room for."""


def prompts(num_rows: int, num_tokens: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(num_rows).integers(vocab_size, size=(num_rows, num_tokens))


class Ours:
    """An engine of worldsize by one method, eager or compiled."""

    def __init__(self, folder: Path, method: str, compiled: bool) -> None:
        from worldsize.bench.speed import read_bytes_per_step
        from worldsize.inference.engine import Engine
        from worldsize.inference.open_model import open_model

        opened = open_model(folder)
        self.engine = Engine(
            opened, method_name=method, num_slots=SLOTS, length=LONGEST, chunk=512, compile_decoding=compiled
        )
        self.vocab_size = self.engine.vocab_size
        self.read_bytes = read_bytes_per_step(self.engine.network)
        self.has_kernel = any(type(module).__name__.endswith("Kernel") for module in self.engine.network.modules())

    def decode(self, num_rows: int, num_tokens: int) -> float:
        from worldsize.bench.speed import run_batch

        rows = prompts(num_rows, PROMPT, self.vocab_size).tolist()
        return run_batch(self.engine, rows, num_tokens + 1).decode_s

    def prefill(self, num_tokens: int) -> float:
        ids = prompts(1, num_tokens, self.vocab_size)[0].tolist()
        began_s = time.perf_counter()
        self.engine.prefill(0, ids, 0)
        return time.perf_counter() - began_s


class Transformers:
    """`generate` of the transformers library, greedy, with its cache."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        import transformers

        self.model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.model.generation_config.eos_token_id = None
        self.vocab_size = self.model.config.vocab_size
        unread = self.model.transformer.wpe.weight
        self.read_bytes = sum(p.nbytes for p in self.model.parameters()) - unread.nbytes

    def decode(self, num_rows: int, num_tokens: int) -> float:
        import torch
        import transformers

        moments: list[float] = []

        class Watch(transformers.StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                moments.append(time.perf_counter())
                return torch.zeros(len(input_ids), dtype=torch.bool)

        ids = torch.from_numpy(prompts(num_rows, PROMPT, self.vocab_size))
        self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens + 1, do_sample=False, pad_token_id=0,
            stopping_criteria=[Watch()],
        )  # fmt: skip
        return sum(after - before for before, after in pairwise(moments))

    def prefill(self, num_tokens: int) -> float:
        import torch

        ids = torch.from_numpy(prompts(1, num_tokens, self.vocab_size))
        began_s = time.perf_counter()
        with torch.inference_mode():
            self.model(ids, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - began_s


class OnnxRuntime:
    """An exported graph with keys and values in and out, bound so that they are never copied to Python."""

    def __init__(self, folder: Path, precision: str) -> None:
        import onnxruntime

        path = files.onnx_file(folder, precision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.dims = files.dims(folder)
        self.vocab_size = self.dims["vocab_size"]
        embedding = self.vocab_size * self.dims["n_embd"]  # looked up; the head is a copy of it
        self.read_bytes = path.stat().st_size - embedding * (1 if precision == "int8" else 4)

    def _run(self, ids: np.ndarray, past: Any) -> tuple[np.ndarray, Any]:
        binding = self.session.io_binding()
        binding.bind_cpu_input("ids", ids.astype(np.int64))
        binding.bind_ortvalue_input("past", past)
        binding.bind_output("logits", "cpu")
        binding.bind_output("present", "cpu")
        self.session.run_with_iobinding(binding)
        logits, present = binding.get_outputs()
        return logits.numpy(), present

    def _nothing(self, num_rows: int) -> Any:
        dims = self.dims
        shape = (2 * dims["n_layer"], num_rows, dims["n_head"], 0, dims["n_embd"] // dims["n_head"])
        return self.value(np.zeros(shape, np.float32))

    def decode(self, num_rows: int, num_tokens: int) -> float:
        logits, past = self._run(prompts(num_rows, PROMPT, self.vocab_size), self._nothing(num_rows))
        began_s = time.perf_counter()
        for _ in range(num_tokens):
            logits, past = self._run(logits.argmax(-1)[:, None], past)
        return time.perf_counter() - began_s

    def prefill(self, num_tokens: int) -> float:
        ids, past = prompts(1, num_tokens, self.vocab_size), self._nothing(1)
        began_s = time.perf_counter()
        self._run(ids, past)
        return time.perf_counter() - began_s


class CTranslate2:
    """Its generator, greedy. It tells no moments of tokens, so a run of one token is subtracted."""

    def __init__(self, folder: Path, precision: str) -> None:
        import ctranslate2

        path = files.ctranslate2_folder(folder, precision)
        self.generator = ctranslate2.Generator(str(path), inter_threads=1, intra_threads=1)
        dims = files.dims(folder)
        self.vocab_size = dims["vocab_size"]
        self.read_bytes = (path / "model.bin").stat().st_size - dims["n_positions"] * dims["n_embd"] * 4

    def _generate(self, rows: np.ndarray, num_tokens: int) -> float:
        tokens = [[files.word(index) for index in row] for row in rows]
        began_s = time.perf_counter()
        results = self.generator.generate_batch(
            tokens, max_length=num_tokens, min_length=num_tokens, include_prompt_in_result=False, max_batch_size=SLOTS,
            sampling_topk=1,
        )  # fmt: skip
        took_s = time.perf_counter() - began_s
        assert all(len(result.sequences_ids[0]) == num_tokens for result in results)
        return took_s

    def decode(self, num_rows: int, num_tokens: int) -> float:
        rows = prompts(num_rows, PROMPT, self.vocab_size)
        first_s = self._generate(rows, 1)
        return self._generate(rows, num_tokens + 1) - first_s

    def prefill(self, num_tokens: int) -> float:
        return self._generate(prompts(1, num_tokens, self.vocab_size), 1)


class LlamaCpp:
    """llama.cpp's own decode on batches that we put together, flash attention and file mapping at their defaults."""

    def __init__(self, folder: Path, precision: str) -> None:
        import llama_cpp

        self.api = llama_cpp
        path = files.gguf_file(folder, precision)
        dims = files.dims(folder)
        self.vocab_size = dims["vocab_size"]
        self.read_bytes = path.stat().st_size - dims["n_positions"] * dims["n_embd"] * 4
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = 2048, 512, 512, SLOTS
        options.kv_unified = True
        options.n_threads = options.n_threads_batch = 1
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        assert self.context, f"llama.cpp cannot open {path}"
        self.batch = llama_cpp.llama_batch_init(512, 0, SLOTS)

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """Compute (token, position, sequence, whether its logits are wanted)."""
        self.batch.n_tokens = len(entries)
        for index, (token, position, sequence, wanted) in enumerate(entries):
            self.batch.token[index], self.batch.pos[index] = token, position
            self.batch.n_seq_id[index], self.batch.seq_id[index][0] = 1, sequence
            self.batch.logits[index] = wanted
        assert self.api.llama_decode(self.context, self.batch) == 0

    def _likeliest(self, index: int) -> int:
        logits = self.api.llama_get_logits_ith(self.context, index)
        return int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())

    def _forget(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def decode(self, num_rows: int, num_tokens: int) -> float:
        self._forget()
        tokens = []
        for row, ids in enumerate(prompts(num_rows, PROMPT, self.vocab_size).tolist()):
            self._decode([(token, place, row, place == PROMPT - 1) for place, token in enumerate(ids)])
            tokens.append(self._likeliest(PROMPT - 1))
        began_s = time.perf_counter()
        for step in range(num_tokens):
            self._decode([(token, PROMPT + step, row, True) for row, token in enumerate(tokens)])
            tokens = [self._likeliest(row) for row in range(num_rows)]
        return time.perf_counter() - began_s

    def prefill(self, num_tokens: int) -> float:
        self._forget()
        ids = prompts(1, num_tokens, self.vocab_size)[0].tolist()
        began_s = time.perf_counter()
        self._decode([(token, place, 0, place == num_tokens - 1) for place, token in enumerate(ids)])
        self._likeliest(num_tokens - 1)
        return time.perf_counter() - began_s
