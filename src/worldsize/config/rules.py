"""Rules that need two values or the world size: one small function each, asked before anything is launched.

A rule returns the problem in words (what is given, what is allowed, what to type), or None. `check` raises all problems
at once. `cautions` returns what is legal but seldom meant: it is said and recorded, and nothing stops.
"""

from __future__ import annotations

from collections.abc import Callable

from worldsize.config import messages
from worldsize.config.schema import Config, ParallelConfig
from worldsize.errors import UserError, unknown
from worldsize.parallel.layout import Layout, batches_for, layout_for, strategy_name
from worldsize.parallel.registry import strategies


def check(config: Config, world_size: int) -> None:
    """Raise UserError that lists every rule this config breaks on `world_size` devices."""
    problems = [problem for rule in RULES if (problem := rule(config))]
    try:
        layout = layout_for(config.parallel, world_size)
    except UserError as error:
        problems.append(str(error))
    else:
        problems += global_batch_divides(config, layout)
        problems += strategy_is_legal(config, layout)
    if problems:
        raise messages.join(problems)


def cautions(config: Config) -> list[str]:
    """Return a sentence for each thing that is legal, but probably not what was meant."""
    return [caution for rule in CAUTIONS if (caution := rule(config))]


def heads_divide_width(config: Config) -> str | None:
    model = config.model
    if model.d_model % model.num_heads == 0:
        return None
    below = model.d_model // model.num_heads * model.num_heads
    nearest = " or ".join(str(width) for width in (below, below + model.num_heads) if width)
    return (
        f"model.d_model={model.d_model} does not divide into model.num_heads={model.num_heads} heads. "
        f"Nearest widths that do: {nearest}."
    )


def kv_heads_divide_heads(config: Config) -> str | None:
    heads, kv_heads = config.model.num_heads, config.model.num_kv_heads
    if kv_heads is None or heads % kv_heads == 0:
        return None
    return (
        f"model.num_heads={heads} does not divide into groups for model.num_kv_heads={kv_heads}. "
        f"Choose a num_kv_heads that divides {heads}, or leave it unset for one a head."
    )


def rotary_needs_even_head(config: Config) -> str | None:
    model = config.model
    head_dim = model.d_model // model.num_heads
    if model.positions != "rotary" or model.d_model % model.num_heads or head_dim % 2 == 0:
        return None
    return (
        f"model.positions=rotary turns pairs of numbers, but a head is {head_dim} wide "
        f"(model.d_model={model.d_model} / model.num_heads={model.num_heads}). Make it even: "
        f"model.d_model={model.d_model + model.num_heads}, or positions=learned."
    )


def steps_are_left_to_time(config: Config) -> str | None:
    warmup, steps = config.measure.warmup_steps, config.train.steps
    if warmup < steps:
        return None
    return (
        f"measure.warmup_steps={warmup} leaves none of train.steps={steps} to time. "
        f"Use train.steps={warmup + 10} or more, or measure.warmup_steps={steps // 2}."
    )


def precision_fits(precision: str, device_kind: str) -> str | None:
    """Return why a device cannot compute in a precision, or None.

    fp32, fp64, and bf16 and fp16 autocast, run on CPU and CUDA alike. Asked here when the config names the device, and by
    the worker when it is 'auto'.
    """
    if precision == "tf32" and device_kind == "cpu":
        return "train.precision=tf32 is a mode of NVIDIA's matrix units; on a CPU use fp32 or bf16."
    return None


def precision_fits_device(config: Config) -> str | None:
    return precision_fits(config.train.precision, config.device.kind)


def evaluation_has_text(config: Config) -> str | None:
    if config.train.eval_samples == 0 or config.data.validation_fraction > 0:
        return None
    return (
        f"train.eval_samples={config.train.eval_samples} needs held-out text, but data.validation_fraction=0. "
        "Use train.eval_samples=0, or data.validation_fraction=0.05."
    )


def strategy_is_known(config: Config) -> str | None:
    if config.parallel.strategy in ("auto", *strategies()):
        return None
    return str(unknown("parallel.strategy", config.parallel.strategy, ("auto", *strategies())))


def compression_has_effect(config: Config) -> str | None:
    parallel = config.parallel
    if parallel.gradient_compression == "none" or parallel.strategy in ("auto", "single", "ddp"):
        return None
    return (
        f"parallel.gradient_compression={parallel.gradient_compression} is a way of ddp, and parallel.strategy="
        f"{parallel.strategy} exchanges gradients as they are. Use parallel.strategy=ddp, or "
        "parallel.gradient_compression=none."
    )


RULES: tuple[Callable[[Config], str | None], ...] = (
    heads_divide_width,
    kv_heads_divide_heads,
    rotary_needs_even_head,
    steps_are_left_to_time,
    precision_fits_device,
    evaluation_has_text,
    strategy_is_known,
    compression_has_effect,
)


def global_batch_divides(config: Config, layout: Layout) -> list[str]:
    try:
        batches_for(config.train, layout)
    except UserError as error:
        return [str(error)]
    return []


def strategy_is_legal(config: Config, layout: Layout) -> list[str]:
    """Ask the strategy itself whether it can carry out the layout."""
    strategy = strategies().get(strategy_name(config.parallel, layout.world_size))
    return strategy.legal(config, layout) if strategy else []


def learning_rate_is_reached(config: Config) -> str | None:
    """A run that ends within its learning-rate warm-up is timed correctly, but says little about the loss."""
    warmup, steps = config.optimizer.warmup_steps, config.train.steps
    if warmup < steps:
        return None
    return (
        f"optimizer.warmup_steps={warmup} is not less than train.steps={steps}: the run never trains "
        "at its learning rate, so read nothing into its loss."
    )


def evaluation_interval_has_effect(config: Config) -> str | None:
    if config.train.eval_every_steps is None or config.train.eval_samples > 0:
        return None
    return f"train.eval_every_steps={config.train.eval_every_steps} has no effect, as train.eval_samples=0."


def zero_stage_has_effect(config: Config) -> str | None:
    if config.parallel.zero_stage in (None, 3) or config.parallel.strategy in ("fsdp", "deepspeed"):
        return None
    return (
        f"parallel.zero_stage={config.parallel.zero_stage} has no effect under parallel.strategy="
        f"{config.parallel.strategy}; it is fsdp's and deepspeed's."
    )


def local_steps_have_effect(config: Config) -> str | None:
    parallel, unset = config.parallel, ParallelConfig()
    keys = ("local_steps", "outer_learning_rate", "outer_momentum")
    given = [f"parallel.{key}={getattr(parallel, key)}" for key in keys if getattr(parallel, key) != getattr(unset, key)]
    if not given or parallel.strategy == "local_sgd":
        return None
    return f"{' and '.join(given)} without effect under parallel.strategy={parallel.strategy}: local_sgd's alone."


def deepspeed_config_has_effect(config: Config) -> str | None:
    if config.parallel.deepspeed_config is None or config.parallel.strategy == "deepspeed":
        return None
    return f"parallel.deepspeed_config is not read under parallel.strategy={config.parallel.strategy}."


def pipeline_keys_have_effect(config: Config) -> str | None:
    parallel, default = config.parallel, ParallelConfig()
    changed = [
        f"parallel.{key}={getattr(parallel, key)}"
        for key in ("pipeline_schedule", "stages_per_rank", "stage_layers", "stage_balance")
        if getattr(parallel, key) != getattr(default, key)
    ]
    if not changed or parallel.strategy in ("pipeline", "model_parallel"):
        return None
    return f"{', '.join(changed)} has no effect under parallel.strategy={parallel.strategy}; it is pipeline's."


CAUTIONS: tuple[Callable[[Config], str | None], ...] = (
    learning_rate_is_reached,
    evaluation_interval_has_effect,
    zero_stage_has_effect,
    local_steps_have_effect,
    deepspeed_config_has_effect,
    pipeline_keys_have_effect,
)
