"""One engine's speed on a fixed batch, and what it is measured against."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worldsize.bench.latency import latencies
from worldsize.bench.records import MethodInfo, SpeedRow
from worldsize.config.schema import ModelConfig
from worldsize.inference.engine import Engine
from worldsize.inference.matrix import Matrix
from worldsize.inference.methods import known
from worldsize.inference.network import Network
from worldsize.inference.open_model import OpenedModel
from worldsize.measure.matmul import CPU_SHAPES, matmul_rates
from worldsize.measure.statistics import measured
from worldsize.models.cost import dims_of, forward_flop_per_sample

LOOKED_UP = ("position_embedding", "cos_TD", "sin_TD")
"""Buffers of which a step reads a row or so."""
WARMUP_TOKENS = 2


@dataclass(frozen=True)
class BatchRun:
    """One repeat: all rows' prompts in, then all rows a token a step."""

    first_token_s: list[float]
    """Of each row, since the beginning; the last of them is the time of the whole prefill."""
    step_s: list[float]

    @property
    def prefill_s(self) -> float:
        return self.first_token_s[-1]

    @property
    def decode_s(self) -> float:
        return sum(self.step_s)


@dataclass
class Contender:
    """A method's engine with what has been measured of it."""

    name: str
    engine: Engine
    load_s: float
    first_s: float = 0.0
    runs: dict[int, list[BatchRun]] = field(default_factory=dict)
    """By batch."""


def contender(
    opened: OpenedModel, method: str, *, num_slots: int, length: int, chunk: int, compiled: bool
) -> Contender:
    """Pack the weights. Raises UserError for an unknown method, or one that this machine or model cannot have."""
    began_s = time.perf_counter()
    engine = Engine(
        opened, method_name=method, num_slots=num_slots, length=length, chunk=chunk, compile_decoding=compiled
    )
    return Contender(method, engine, time.perf_counter() - began_s)


@torch.inference_mode()
def run_batch(engine: Engine, prompts: Sequence[Sequence[int]], num_new: int) -> BatchRun:
    """Take the prompts in, one after the other by chunks, and decode greedily until each row has `num_new` tokens."""
    began_s = time.perf_counter()
    tokens: list[Tensor] = []
    first_token_s = []
    for slot, prompt in enumerate(prompts):
        for start, piece in chunks(prompt, engine.chunk):
            logits_V = engine.prefill(slot, piece, start)
        tokens.append(logits_V.argmax())
        first_token_s.append(time.perf_counter() - began_s)
    tokens_B, positions_B = torch.stack(tokens), torch.tensor([len(prompt) for prompt in prompts])
    step_s = []
    for _ in range(num_new - 1):
        began_s = time.perf_counter()
        tokens_B, positions_B = engine.greedy(tokens_B, positions_B)
        step_s.append(time.perf_counter() - began_s)
    return BatchRun(first_token_s, step_s)


def chunks(prompt: Sequence[int], size: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield a prompt's pieces, each with its place."""
    return ((start, prompt[start : start + size]) for start in range(0, len(prompt), size))


def speed_row(
    who: Contender, batch: int, prompt_tokens: int, model: ModelConfig, bandwidth: float, matmul_rate: float
) -> SpeedRow:
    """Return what a method's repeats of one batch add up to. Rates are of the whole run: bytes/s and FLOP/s."""
    runs = who.runs[batch]
    num_steps = len(runs[0].step_s)
    tokens_per_s = [batch * num_steps / run.decode_s for run in runs]
    read = read_bytes_per_step(who.engine.network)
    bytes_per_s = [read * num_steps / run.decode_s for run in runs]
    flop = batch * prefill_flop(model, prompt_tokens)
    return SpeedRow(
        method=who.name,
        batch=batch,
        ttft_ms=latencies([at_s * 1e3 for run in runs for at_s in run.first_token_s]),
        tpot_ms=measured([run.decode_s / num_steps * 1e3 for run in runs]),
        itl_ms=latencies([step_s * 1e3 for run in runs for step_s in run.step_s]),
        prefill_tokens_per_s=measured([batch * prompt_tokens / run.prefill_s for run in runs]),
        decode_tokens_per_s=measured(tokens_per_s),
        request_tokens_per_s=measured([speed / batch for speed in tokens_per_s]),
        requests_per_s=measured([batch / (run.prefill_s + run.decode_s) for run in runs]),
        decode_bytes_per_s=measured(bytes_per_s),
        share_of_bandwidth=measured([speed / bandwidth for speed in bytes_per_s]),
        share_of_matmul=measured([flop / run.prefill_s / matmul_rate for run in runs]),
    )


def info(who: Contender) -> MethodInfo:
    """Return what is known of a method without timing it."""
    engine, network = who.engine, who.engine.network
    cache = engine.cache.keys_SGTD + engine.cache.values_SGTD
    return MethodInfo(
        name=who.name,
        compiled=engine.compiled,
        weight_bytes=sum(buffer.nbytes for buffer in network.buffers()),
        read_bytes_per_step=read_bytes_per_step(network),
        cache_bytes=sum(tensor.nbytes for tensor in cache),
        load_s=who.load_s,
        first_s=who.first_s,
        matmul_type=matmul_type(who.name),
    )


def read_bytes_per_step(network: Network) -> int:
    """Return the bytes of weights that one step reads whole, whatever the batch: all but what is only looked up."""
    matrices = [(name, module) for name, module in network.named_modules() if isinstance(module, Matrix)]
    names = tuple(f"{name}." for name, _ in matrices)
    others = [(name, buffer) for name, buffer in network.named_buffers() if not name.startswith(names)]
    looked_up = 0 if network.head is network.token_embedding else network.token_embedding.num_bytes
    read = sum(matrix.num_bytes for _, matrix in matrices) - looked_up
    return read + sum(buffer.nbytes for name, buffer in others if name not in LOOKED_UP)


def prefill_flop(model: ModelConfig, num_tokens: int) -> float:
    """Return the matmul FLOP of taking in one prompt: logits are computed after its last token alone."""
    dims = dims_of(model)
    unused_logits = 2.0 * (num_tokens - 1) * dims.d_model * dims.vocab_size
    return forward_flop_per_sample(model, causal=True, length=num_tokens) - unused_logits


def matmul_type(method: str) -> str:
    """Return the type of products whose rate a method's prefill is measured against: that in which it multiplies."""
    return known(method).blocks.product_type()


def matmul_rate(kind: str) -> float:
    """Return the best rate of a few linear layers on this process's threads: FLOP/s, or integer operations/s."""
    if kind == "int8":
        return max(_int8_rate(*shape) for shape in CPU_SHAPES)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    return matmul_rates(torch.device("cpu"), dtype).best


@torch.inference_mode()
def _int8_rate(rows: int, num_out: int, num_in: int) -> float:
    x = torch.randint(-127, 128, (rows, num_in), dtype=torch.int8)
    weight = torch.randint(-127, 128, (num_out, num_in), dtype=torch.int8)
    best_s = np.inf
    for _ in range(8):
        began_s = time.perf_counter()
        torch._int_mm(x, weight.t())
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * rows * num_out * num_in / best_s
