"""One contender in its own process: `python -m benchmarks.contender '{"name": …}'`, driven by train_speed.

All train the same model shape on the same corpus with AdamW, clipping at 1.0, the same batch and precision, on one
core with one compute thread. Ours is `worldsize.train.run.run`, whole: data, clock, rows on disk.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gate import WARMUP_BLOCKS, Gate

MATMUL_SHAPE = (2048, 384, 1536)
"""Rows, inputs, outputs: of the shapes in matmul.py the one that is fastest on the machines we know."""


@dataclass(frozen=True)
class Spec:
    """What to train, and in which turns."""

    name: str
    width: int
    num_layers: int
    num_heads: int
    length: int
    vocab_size: int
    num_samples: int
    bf16: bool
    steps_per_block: int
    num_rounds: int
    core: int

    @property
    def num_steps(self) -> int:
        return self.steps_per_block * (WARMUP_BLOCKS + self.num_rounds)

    @property
    def matmuls_per_block(self) -> int:
        return 80 if self.bf16 else 40

    @property
    def matmul_flop_per_block(self) -> float:
        return 2.0 * math.prod(MATMUL_SHAPE) * self.matmuls_per_block

    @property
    def compiled(self) -> bool:
        return self.name.endswith("compiled")

    def overrides(self) -> list[str]:
        """The same model and training as a worldsize config."""
        values = {
            "model.d_model": self.width,
            "model.num_layers": self.num_layers,
            "model.num_heads": self.num_heads,
            "model.context_length": self.length,
            "model.vocab_size": self.vocab_size,
            "train.global_batch": self.num_samples,
            "train.steps": self.num_steps,
            "train.precision": "bf16" if self.bf16 else "fp32",
            "train.compile": self.compiled,
            "train.eval_samples": 0,
            "train.checksum_every_steps": self.num_steps,
            "measure.window_steps": self.steps_per_block,
            "measure.probe_rounds": 0,
            "measure.trace_steps": 0,
            "device.kind": "cpu",
            "device.pin": False,  # the gate pins all contenders alike
        }
        return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def on_step_for(spec: Spec) -> Callable[[int], None]:
    gate = Gate(spec.core)

    def on_step(done: int) -> None:
        if done % spec.steps_per_block == 0:
            gate.block_done()

    return on_step


def token_ids(spec: Spec) -> Any:
    from worldsize.config.load import load
    from worldsize.data.prepare import prepare

    return prepare(load(None, spec.overrides()).config.data).tokens()


def ours(spec: Spec) -> None:
    """Train by the very code that `worldsize train` runs on a rank."""
    from worldsize.config.load import load, resolve
    from worldsize.data.prepare import prepare
    from worldsize.launch.progress import Progress
    from worldsize.train.worker import run_rank

    loaded = load(None, spec.overrides())
    loaded = resolve(loaded, 1, prepare(loaded.config.data).vocab_size)
    gate = Gate(spec.core)

    def say(progress: Progress) -> None:
        if progress.stage == "training" and progress.step:
            gate.block_done()

    with tempfile.TemporaryDirectory() as folder:
        run_rank(loaded, Path(folder), ["benchmark"], say, claims_folder=False)


def plain(spec: Spec) -> None:
    import torch

    from benchmarks.plain import PlainGPT, train

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = PlainGPT(spec.vocab_size, spec.length, spec.width, spec.num_layers, spec.num_heads)
    train(
        model, token_ids(spec), num_samples=spec.num_samples, length=spec.length, num_steps=spec.num_steps,
        bf16=spec.bf16, compiled=spec.compiled, on_step=on_step_for(spec),
    )  # fmt: skip


def hugging_face(spec: Spec) -> None:
    """Hugging Face's Trainer with its own GPT-2; logging, evaluation and checkpoints off."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(1)
    ids, on_step = token_ids(spec), on_step_for(spec)

    class Windows(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return (len(ids) - 1) // spec.length

        def __getitem__(self, index: int) -> dict[str, Any]:
            window = torch.from_numpy(ids[index * spec.length : (index + 1) * spec.length].astype("int64"))
            return {"input_ids": window, "labels": window}

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_step(state.global_step)

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=spec.vocab_size, n_positions=spec.length, n_embd=spec.width, n_layer=spec.num_layers,
            n_head=spec.num_heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, use_cpu=True, bf16=spec.bf16, per_device_train_batch_size=spec.num_samples,
            max_steps=spec.num_steps, learning_rate=1e-3, weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0,
            optim="adamw_torch_fused", lr_scheduler_type="cosine", logging_strategy="no", save_strategy="no",
            eval_strategy="no", report_to="none", disable_tqdm=True, dataloader_num_workers=0,
            dataloader_pin_memory=False,
        )  # fmt: skip
        Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=[Turns()]).train()


def matmul(spec: Spec) -> None:
    """No training: matrix products alone, by the fastest kernel known here. The limit, under the same conditions."""
    import torch

    from worldsize.models.linear import linear

    torch.set_num_threads(1)
    dtype = torch.bfloat16 if spec.bf16 else torch.float32
    rows, inputs, outputs = MATMUL_SHAPE
    x, weight = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    gate = Gate(spec.core)
    for _ in range(WARMUP_BLOCKS + spec.num_rounds):
        for _ in range(spec.matmuls_per_block):
            linear(x, weight)
        gate.block_done()


CONTENDERS = {
    "matmul": matmul,
    "ours": ours,
    "ours compiled": ours,
    "plain": plain,
    "plain compiled": plain,
    "HF Trainer": hugging_face,
}


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    os.environ["OMP_NUM_THREADS"] = "1"
    if spec.compiled:
        import torch._dynamo

        torch._dynamo.config.fail_on_recompile_limit_hit = True
    CONTENDERS[spec.name](spec)


if __name__ == "__main__":
    main()
