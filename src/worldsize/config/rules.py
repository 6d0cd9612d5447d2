"""Rules that need two values or the world size: one small function each, asked before anything is launched.

A rule returns the problem in words (what is given, what is allowed, what to type), or None. `check` raises all problems
at once. What is legal but seldom meant is in `cautions.py`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from worldsize.config import messages
from worldsize.config.rates import parse_rate
from worldsize.config.schema import Config
from worldsize.errors import UserError, unknown
from worldsize.models.cost import is_hugging_face
from worldsize.models.hf_as_ours import as_built
from worldsize.parallel.layout import Layout, batches_for, layout_for, strategy_name
from worldsize.parallel.registry import strategies


def check(config: Config, world_size: int) -> None:
    """Raise UserError that lists every rule this config breaks on `world_size` devices."""
    try:
        config = as_built(config)
    except UserError as error:
        raise messages.join([str(error), *_problems(config)]) from None
    problems = _problems(config)
    try:
        layout = layout_for(config.parallel, world_size)
    except UserError as error:
        problems.append(str(error))
    else:
        problems += global_batch_divides(config, layout)
        problems += strategy_is_legal(config, layout)
    problems += ranks_divide_over_hosts(config, world_size)
    if problems:
        raise messages.join(problems)


def _problems(config: Config) -> list[str]:
    """Return what two values say against each other, whatever the world size."""
    return [problem for rule in RULES if (problem := rule(config))]


def heads_divide_width(config: Config) -> str | None:
    model = config.model
    if is_hugging_face(model) or model.d_model % model.num_heads == 0:
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

    fp32, fp64, and bf16 and fp16 autocast run on CPU and CUDA alike. Asked here when the config names a device, and by
    the worker when it is 'auto'.
    """
    if precision == "tf32" and device_kind == "cpu":
        return "train.precision=tf32 is a mode of NVIDIA's matrix units; on a CPU use fp32 or bf16."
    return None


def precision_fits_device(config: Config) -> str | None:
    return precision_fits(config.train.precision, config.device.kind)


def evaluation_has_text(config: Config) -> str | None:
    if config.train.eval_samples == 0 or config.data.has_held_out:
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


def link_is_a_rate(config: Config) -> str | None:
    if config.lab.link is None:
        return None
    try:
        parse_rate(config.lab.link)
    except UserError as error:
        return f"lab.link: {error}"
    return None


def hosts_are_few(config: Config) -> str | None:
    most = 64
    if config.lab.hosts <= most:
        return None
    return f"lab.hosts={config.lab.hosts} is more than the {most} hosts that one machine emulates. Use {most} or fewer."


def emulated_hosts_are_cpu(config: Config) -> str | None:
    if config.lab.hosts == 1 or config.device.kind != "cuda":
        return None
    return (
        f"lab.hosts={config.lab.hosts} divides this machine's cores among emulated hosts, not its GPUs. "
        "Use device.kind=cpu, or lab.hosts=1."
    )


def kind_fits_task(config: Config) -> str | None:
    kind, task = config.model.kind, config.data.task
    if kind is None or (kind == "encoder") == (task == "classification"):
        return None
    needed = "encoder" if task == "classification" else "decoder"
    return (
        f"data.task={task} needs model.kind={needed}, but model.kind={kind}. Leave model.kind unset, or use {needed}."
    )


def rows_are_named(config: Config) -> str | None:
    data = config.data
    if data.task == "language_modelling" or data.source != "python-stdlib":
        return None
    return (
        f"data.task={data.task} trains on rows, and data.source=python-stdlib has none. Give data.source=FILE (.csv, "
        ".tsv, .jsonl, .parquet) or hub:NAME."
    )


def held_out_pairs_are_whole(config: Config) -> str | None:
    data = config.data
    if data.task != "translation" or data.validation_source is None:
        return None
    if (data.target_source is None) == (data.validation_target_source is None):
        return None
    return (
        "data.target_source and data.validation_target_source go together: the target lines of data.source and those "
        "of data.validation_source. Set both, or neither where the rows have a target column."
    )


def one_hugging_face_model(config: Config) -> str | None:
    if config.model.hf is None or config.model.hf_config is None:
        return None
    return (
        "model.hf names trained weights and model.hf_config random ones; leave one of them unset "
        "(model.hf_config=null, or model.hf=null)."
    )


def translations_can_be_scored(config: Config) -> str | None:
    """BLEU is asked for after hours of training, so sacrebleu is looked for before."""
    if config.data.task != "translation" or config.train.eval_translations == 0 or config.train.eval_samples == 0:
        return None
    if importlib.util.find_spec("sacrebleu") is not None:
        return None
    return (
        "BLEU and chrF of data.task=translation need the extra 'eval': pip install 'worldsize[eval]', or use "
        "train.eval_translations=0."
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
    link_is_a_rate,
    hosts_are_few,
    emulated_hosts_are_cpu,
    kind_fits_task,
    rows_are_named,
    held_out_pairs_are_whole,
    one_hugging_face_model,
    translations_can_be_scored,
)


def global_batch_divides(config: Config, layout: Layout) -> list[str]:
    try:
        batches_for(config.train, layout)
    except UserError as error:
        return [str(error)]
    return []


def strategy_is_legal(config: Config, layout: Layout) -> list[str]:
    """Ask the strategy itself whether it can carry out the layout."""
    name = strategy_name(config.parallel, layout.world_size)
    strategy = strategies().get(name)
    return strategy.legal(config, layout) if strategy else []


def ranks_divide_over_hosts(config: Config, world_size: int) -> list[str]:
    """Each emulated host runs equally many ranks; fewer ranks than hosts use fewer hosts."""
    hosts = min(config.lab.hosts, world_size)
    if world_size % hosts == 0:
        return []
    nearest = f"{world_size // hosts * hosts} or {world_size // hosts * hosts + hosts}"
    return [f"{world_size} ranks do not divide over lab.hosts={hosts}. Nearest world sizes that do: {nearest}."]
