"""What is legal, but seldom meant: one small function each. It is said and recorded, and nothing stops."""

from __future__ import annotations

from collections.abc import Callable

from worldsize.config.schema import Config, ParallelConfig
from worldsize.parallel.compression import KEEPS_WHAT_IT_LEFT_OUT
from worldsize.parallel.registry import cuts_model


def cautions(config: Config) -> list[str]:
    """Return a sentence for each thing that is legal, but probably not what was meant."""
    return [caution for rule in CAUTIONS if (caution := rule(config))]


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


def prefetch_has_effect(config: Config) -> str | None:
    parallel = config.parallel
    sharded = parallel.strategy == "fsdp" or (parallel.strategy == "tensor" and (parallel.fsdp or 1) > 1)
    if parallel.prefetch_blocks is None or sharded:
        return None
    return (
        f"parallel.prefetch_blocks={parallel.prefetch_blocks} has no effect under parallel.strategy="
        f"{parallel.strategy}; it is fsdp's."
    )


def link_has_effect(config: Config) -> str | None:
    if config.lab.hosts > 1 or (config.lab.link is None and config.lab.latency_ms == 0):
        return None
    return "lab.link and lab.latency_ms have no effect, as lab.hosts=1."


def token_dropout_has_effect(config: Config) -> str | None:
    if config.train.token_dropout == 0 or config.data.task == "classification":
        return None
    return f"train.token_dropout has no effect under data.task={config.data.task}; it is classification's."


def packing_has_effect(config: Config) -> str | None:
    if not config.data.packing or config.data.task == "translation":
        return None
    return f"data.packing=true has no effect under data.task={config.data.task}; it is translation's."


def local_steps_have_effect(config: Config) -> str | None:
    parallel, unset = config.parallel, ParallelConfig()
    keys = ("local_steps", "outer_learning_rate", "outer_momentum")
    given = [
        f"parallel.{key}={getattr(parallel, key)}" for key in keys if getattr(parallel, key) != getattr(unset, key)
    ]
    if not given or parallel.strategy == "local_sgd":
        return None
    return f"{' and '.join(given)} without effect under parallel.strategy={parallel.strategy}: local_sgd's alone."


def deepspeed_config_has_effect(config: Config) -> str | None:
    if config.parallel.deepspeed_config is None or config.parallel.strategy == "deepspeed":
        return None
    return f"parallel.deepspeed_config is not read under parallel.strategy={config.parallel.strategy}."


def compression_goes_on_otherwise(config: Config) -> str | None:
    compression = config.parallel.gradient_compression
    if config.checkpoint.every_steps is None or compression not in KEEPS_WHAT_IT_LEFT_OUT:
        return None
    return (
        f"what parallel.gradient_compression={compression} leaves out of an exchange is not in a checkpoint: a run "
        "that is resumed goes on with slightly other losses than one that is not interrupted."
    )


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


def own_decoder_runs(config: Config) -> str | None:
    """The strategies that cut a model have no code of Hugging Face's to cut."""
    model, strategy = config.model, config.parallel.strategy
    if (model.hf is None and model.hf_config is None) or not cuts_model(strategy):
        return None
    given = "model.hf_config" if model.hf is None else f"model.hf={model.hf}"
    return (
        f"worldsize's own decoder runs with the weights of {given}, since parallel.strategy={strategy} cuts the model; "
        "to compare speed with other strategies, give them model.implementation=worldsize too."
    )


def implementation_has_effect(config: Config) -> str | None:
    model = config.model
    if model.implementation is None or model.hf is not None or model.hf_config is not None:
        return None
    return f"model.implementation={model.implementation} has no effect without model.hf or model.hf_config."


CAUTIONS: tuple[Callable[[Config], str | None], ...] = (
    learning_rate_is_reached,
    evaluation_interval_has_effect,
    zero_stage_has_effect,
    prefetch_has_effect,
    link_has_effect,
    packing_has_effect,
    local_steps_have_effect,
    deepspeed_config_has_effect,
    compression_goes_on_otherwise,
    token_dropout_has_effect,
    pipeline_keys_have_effect,
    own_decoder_runs,
    implementation_has_effect,
)
