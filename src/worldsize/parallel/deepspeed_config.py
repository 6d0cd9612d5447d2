"""The user's own DeepSpeed JSON beside the run's config: what agrees passes through, what contradicts is named.

The run's config decides batches, arithmetic, optimizer, clipping and the ZeRO stage. "auto" stands for the run's value,
as in Hugging Face's integration. Torch-free, and needs no deepspeed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from worldsize.config.schema import Config
from worldsize.errors import UserError
from worldsize.models.cost import BF16_BYTES, FP32_BYTES
from worldsize.parallel.layout import Layout, batches_for

DEFAULT_STAGE = 3
AUTO = "auto"
NEVER = 2**31 - 1
"""Of `steps_per_print`: DeepSpeed says nothing of its own."""
OF_THE_RUN = ("scheduler", "amp", "torch_autocast", "elasticity", "tensor_parallel", "pipeline", "sparse_attention",
              "curriculum_learning", "data_efficiency", "progressive_layer_drop", "compression_training",
              "sequence_parallel_size", "eigenvalue", "quantize_training", "hybrid_engine")  # fmt: skip
"""Keys that change what is computed, on what samples or over which axes, in ways that no key of the run's names."""

Tree = dict[str, Any]


def read(path: str) -> Tree:
    """Return the file's keys. Raises UserError where it cannot be read or is no JSON object."""
    try:
        tree = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UserError(
            f"parallel.deepspeed_config={path}: {error.strerror}. Give the path of a DeepSpeed JSON file, or leave it "
            "unset."
        ) from error
    except ValueError as error:
        raise UserError(f"parallel.deepspeed_config={path} is not JSON: {error}.") from error
    if not isinstance(tree, dict):
        raise UserError(f"parallel.deepspeed_config={path} holds no JSON object at its top, as DeepSpeed's file must.")
    return tree


def stage_of(config: Config) -> int:
    """Return the ZeRO stage: that of the run's config, else of the JSON, else 3. Raises UserError as `read` does."""
    if config.parallel.zero_stage is not None:
        return config.parallel.zero_stage
    theirs = read(config.parallel.deepspeed_config) if config.parallel.deepspeed_config else {}
    stage = _leaves(theirs).get("zero_optimization.stage", DEFAULT_STAGE)
    return stage if stage in (0, 1, 2, 3) else DEFAULT_STAGE


def contradictions(config: Config, layout: Layout) -> list[str]:
    """Return a sentence for each key of the user's JSON that the run's config contradicts, with both values."""
    path = config.parallel.deepspeed_config
    if path is None:
        return []
    try:
        theirs = read(path)
        ours = _decided(config, layout)
        if config.train.precision == "fp16":
            ours["zero_optimization.compute_grad_norm"] = (True, "train.precision=fp16, whose overflows the norm tells")
    except UserError as error:
        return [str(error)]
    found = []
    off = [name for name, section in theirs.items() if isinstance(section, dict) and section.get("enabled") is False]
    for key, value in _leaves(theirs).items():
        problem = None if key.split(".")[0] in off and key not in ours else _contradiction(key, value, ours, config)
        if problem:
            found.append(f"{path}: {problem}")
    return found


def merged(config: Config, layout: Layout) -> Tree:
    """Return what `deepspeed.initialize` is given: the user's keys, and the run's where it decides."""
    theirs = read(config.parallel.deepspeed_config) if config.parallel.deepspeed_config else {}
    for ignored in ("optimizer", *OF_THE_RUN):
        theirs.pop(ignored, None)
    tree = _without_auto(theirs)
    tree.setdefault("steps_per_print", NEVER)
    tree.setdefault("zero_allow_untested_optimizer", True)
    for key, (value, _) in _decided(config, layout).items():
        if not key.startswith("optimizer."):
            *sections, name = key.split(".")
            target = tree
            for section in sections:
                target = target.setdefault(section, {})
            target[name] = value
    tree["zero_optimization"].setdefault("reduce_bucket_size", _bucket_numel(config))
    return tree


def _bucket_numel(config: Config) -> int:
    """Return the elements of a gradient bucket. DeepSpeed's own default allocates 500 million, whatever the model."""
    element_bytes = BF16_BYTES if config.train.precision == "bf16" else FP32_BYTES
    return max(1, int(config.parallel.bucket_mib * 2**20) // element_bytes)


def _decided(config: Config, layout: Layout) -> dict[str, tuple[Any, str]]:
    """Return DeepSpeed key → (the run's value, and where that comes from) for all that the run's config decides."""
    batches, optimizer, precision = batches_for(config.train, layout), config.optimizer, config.train.precision
    clip = config.train.grad_clip_norm
    autocasts = " autocasts fp32 weights" if precision == "fp16" else ""
    return {
        "train_batch_size": (batches.global_batch, "train.global_batch"),
        "train_micro_batch_size_per_gpu": (batches.micro_batch, "train.micro_batch"),
        "gradient_accumulation_steps": (batches.accumulation, "global batch / (data ranks × train.micro_batch)"),
        "managed_gradient_accumulation": (True, "gradients are exchanged after the last micro batch"),
        "gradient_clipping": (clip or 0.0, f"train.grad_clip_norm={'null' if clip is None else clip}"),
        "zero_optimization.stage": (stage_of(config), "parallel.zero_stage"),
        "bf16.enabled": (precision == "bf16", f"train.precision={precision}"),
        "fp16.enabled": (False, f"train.precision={precision}{autocasts}"),
        "optimizer.type": ("AdamW", "section optimizer"),
        "optimizer.params.lr": (optimizer.learning_rate, "optimizer.learning_rate"),
        "optimizer.params.betas": ([optimizer.beta1, optimizer.beta2], "optimizer.beta1 and beta2"),
        "optimizer.params.eps": (optimizer.eps, "optimizer.eps"),
        "optimizer.params.weight_decay": (optimizer.weight_decay, "optimizer.weight_decay"),
        "prescale_gradients": (False, "gradients are sums over the global count of tokens"),
        "gradient_predivide_factor": (1.0, "gradients are sums over the global count of tokens"),
    }


def _contradiction(key: str, value: Any, ours: dict[str, tuple[Any, str]], config: Config) -> str | None:
    """Return what is wrong with one key of the JSON, or None."""
    section = key.split(".")[0]
    if value == AUTO:
        return None
    if section == "scheduler":
        return (
            f"{key}={value}, but the run's learning rate follows optimizer.schedule={config.optimizer.schedule} with "
            f"optimizer.warmup_steps={config.optimizer.warmup_steps}; leave 'scheduler' out"
        )
    if section in OF_THE_RUN:
        if not value or (type(value) is int and value == 1):
            return None
        return f"{key}={_json(value)} changes the work in a way that no key of the run's config has; leave it out"
    if key in ours:
        expected, source = ours[key]
        if _equal(value, expected):
            return None
        return (
            f"{key}={_json(value)}, but the run's config says {_json(expected)} ({source}); make them equal, or use "
            '"auto"'
        )
    if section == "optimizer":
        return f"{key}={_json(value)} has no counterpart in the run's config, whose optimizer is AdamW; leave it out"
    return None


def _equal(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, str) and isinstance(ours, str):
        return theirs.lower() == ours.lower()
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(theirs) == len(ours) and all(map(_equal, theirs, ours))
    if isinstance(theirs, bool) or isinstance(ours, bool):
        return theirs is ours
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return math.isclose(theirs, ours, rel_tol=1e-9)
    return bool(theirs == ours)


def _leaves(tree: Tree, path: str = "") -> dict[str, Any]:
    """Return dotted key → value of nested objects."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _leaves(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return found


def _without_auto(tree: Tree) -> Tree:
    """Return the tree without the values that are left to us or to DeepSpeed's defaults."""
    return {
        name: _without_auto(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if value != AUTO
    }


def _json(value: Any) -> str:
    return json.dumps(value)
