"""The typed configuration tree: what a run is, before anything runs.

Fields carry their own bounds; rules that need two fields or the world size stand in `rules.py`. Every field's
description is its help text, in `worldsize config --schema` and in the reference page.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values cannot change after loading, NaN is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ModelConfig(Section):
    """A decoder-only transformer. The defaults are GPT-2's family; RMSNorm + rotary + SwiGLU + grouped queries is Llama's."""

    num_layers: int = Field(4, ge=1, description="transformer blocks")
    d_model: int = Field(128, ge=1, description="width of the residual stream")
    num_heads: int = Field(4, ge=1, description="attention (query) heads; must divide d_model")
    num_kv_heads: int | None = Field(None, ge=1, description="key/value heads (grouped queries); unset = num_heads")
    d_ff: int | None = Field(
        None,
        ge=1,
        description="width of the feed-forward layer; unset = 4 × d_model, or 8/3 × d_model rounded up to 64 for swiglu",
    )
    vocab_size: int | None = Field(
        None, ge=2, description="embedding rows; unset = the tokenizer's size rounded up to a multiple of 64"
    )
    context_length: int = Field(128, ge=1, description="tokens in one sample")
    norm: Literal["layernorm", "rmsnorm"] = Field(
        "layernorm", description="normalisation before attention, feed-forward and head"
    )
    norm_eps: float = Field(1e-5, gt=0, description="added to the variance in the normalisation")
    positions: Literal["learned", "rotary"] = Field("learned", description="how a token's position enters")
    rope_theta: float = Field(10000.0, gt=0, description="base of the rotary frequencies")
    activation: Literal["gelu", "swiglu"] = Field(
        "gelu", description="feed-forward non-linearity; gelu is the tanh form, as in GPT-2"
    )
    bias: bool = Field(True, description="biases in linear layers and layer norms")
    tied_head: bool = Field(True, description="output head shares the token embedding's weights")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability during training")


class DataConfig(Section):
    """Where text comes from and how it becomes tokens."""

    source: str = Field(
        "python-stdlib",
        description="'python-stdlib', a path (text file, folder, .gz, .xz) or 'hub:NAME[:CONFIG]' (extra hf)",
    )
    tokenizer: str = Field(
        "bytes",
        description="'bytes', 'bpe:SIZE' (trained on the corpus, extra hf), or a Hugging Face tokenizer's folder, file or hub name",
    )
    text_column: str = Field("text", description="column of a hub data set that holds the text")
    max_bytes: int | None = Field(None, ge=1, description="use only this much of the corpus; unset = all of it")
    validation_fraction: float = Field(
        0.05, ge=0, lt=1, description="share of the corpus, at its end, held out for evaluation"
    )
    cache_dir: str | None = Field(
        None, description="where tokenized corpora are kept; unset = $XDG_CACHE_HOME/worldsize or ~/.cache/worldsize"
    )
    num_workers: int | None = Field(None, ge=1, description="processes that tokenize; unset = one a core")


class TrainConfig(Section):
    """How long, how much at a time, in which arithmetic."""

    steps: int = Field(50, ge=1, description="optimizer steps")
    global_batch: int = Field(32, ge=1, description="samples that all devices together see per optimizer step")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="samples in one forward on one device; unset = the whole per-device batch, or in a pipeline what makes at least 4 micro batches a rank",
    )
    allow_ragged_micro_batch: bool = Field(
        False, description="let the last micro batch of a step be smaller where micro_batch does not divide"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, sample order and dropout")
    precision: Literal["fp32", "tf32", "bf16", "fp16", "fp64"] = Field(
        "fp32",
        description="fp32; tf32 matmuls (NVIDIA); bf16 or fp16 autocast over fp32 weights (fp16 with loss scaling); fp64 everywhere, to check other ways",
    )
    compile: bool = Field(False, description="torch.compile the model")
    activation_checkpointing: Literal["none", "block", "attention"] = Field(
        "none",
        description="block: keep only each block's input and compute the block again in backward; attention: the same between attention's two linears alone",
    )
    grad_clip_norm: float | None = Field(
        1.0, gt=0, description="clip the gradient's global norm to this; null = no clipping"
    )
    eval_every_steps: int | None = Field(
        None, ge=1, description="evaluate on held-out text every so many steps and at the end; unset = only at the end"
    )
    eval_samples: int = Field(
        64, ge=0, description="held-out samples in one evaluation, spread over the ranks; 0 = never evaluate"
    )
    checksum_every_steps: int = Field(
        25, ge=1, description="compare a checksum of the weights across replicas every so many steps"
    )


class OptimizerConfig(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup_steps: int = Field(10, ge=0, description="steps of linear learning-rate warm-up")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="after warm-up: cosine decay to min_lr_fraction at the last step, or constant"
    )
    min_lr_fraction: float = Field(0.1, ge=0, le=1, description="learning rate at the last step as a share of the peak")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the gradient's running mean")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of the squared gradient's running mean")
    eps: float = Field(1e-8, gt=0, description="added to the denominator")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay, on matrices only")


class ParallelConfig(Section):
    """The layout: degrees whose product is the world size, and the technique."""

    strategy: str = Field(
        "auto",
        description="'auto' (single on one device, ddp on more), 'single', 'allreduce', 'ddp', 'fsdp', 'tensor', 'pipeline' or 'model_parallel'",
    )
    dp: int | None = Field(
        None,
        ge=1,
        description="data-parallel replicas; unset = what the other degrees leave, or 1 where the strategy spreads over another axis",
    )
    fsdp: int | None = Field(
        None, ge=1, description="ranks that share one replica's weights; unset = under fsdp what dp leaves, else 1"
    )
    tp: int | None = Field(
        None, ge=1, description="tensor-parallel ranks; unset = under tensor what the other degrees leave, else 1"
    )
    pp: int | None = Field(
        None,
        ge=1,
        description="pipeline stages; unset = under pipeline and model_parallel what the other degrees leave, else 1",
    )
    bucket_mib: float = Field(25.0, gt=0, description="size of a gradient bucket under ddp")
    gradient_compression: Literal["none", "bf16", "fp16", "powersgd"] = Field(
        "none",
        description="what ddp exchanges: gradients as they are, rounded to 16 bits, or PowerSGD's low-rank factors",
    )
    powersgd_rank: int = Field(4, ge=1, description="rank of PowerSGD's factors")
    zero_stage: Literal[0, 1, 2, 3] | None = Field(
        None,
        description="what fsdp (2, 3) and deepspeed (0-3) shard: 1 = the optimizer, 2 = gradients too, 3 = parameters too; unset = deepspeed_config's, else 3",
    )
    deepspeed_config: str | None = Field(
        None,
        description="DeepSpeed's own JSON file: keys that contradict this config are errors, the others pass through",
    )
    local_steps: int = Field(1, ge=1, description="optimizer steps between two averages of the weights under local_sgd")
    outer_learning_rate: float = Field(
        1.0, gt=0, description="of local_sgd's outer step along the averaged change of the weights; 1 = plain averaging"
    )
    outer_momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Nesterov momentum of local_sgd's outer step (DiLoCo: 0.9, outer_learning_rate 0.7)",
    )
    pipeline_schedule: Literal["gpipe", "1f1b", "interleaved", "zero_bubble", "zero_bubble_v"] = Field(
        "1f1b",
        description="order of micro batches under pipeline: GPipe (all forward, then all backward), one forward one backward, the same over several stages a rank, or with backward cut in two to fill the bubble (zero_bubble, and zero_bubble_v with two stages a rank in V form)",
    )
    stages_per_rank: int | None = Field(
        None,
        ge=1,
        description="pipeline stages on each rank; unset = 2 under interleaved and zero_bubble_v, else 1",
    )
    stage_layers: list[int] | None = Field(
        None, description="blocks in each pipeline stage, such as [3, 2]; unset = shared out by stage_balance"
    )
    stage_balance: Literal["analytic", "measured", "equal"] = Field(
        "analytic",
        description="how blocks are shared out among pipeline stages: by FLOP with the head counted, by the time that block and head take here, or equal counts",
    )


class DeviceConfig(Section):
    """What a rank runs on. On CPU a device is `threads_per_rank` pinned cores."""

    kind: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = cuda where there is one, else cpu")
    threads_per_rank: int = Field(1, ge=1, description="cores and compute threads of one CPU rank")
    pin: bool = Field(True, description="pin each CPU rank to its own cores")
    timeout_s: float = Field(60.0, gt=0, description="a collective that takes longer than this ends the run")


class MeasureConfig(Section):
    """What is measured, and how much of it."""

    warmup_steps: int = Field(5, ge=0, description="first steps of a run that are tagged and left out of every timing")
    window_steps: int = Field(10, ge=1, description="steps between two synchronisations of the device")
    probe_rounds: int = Field(
        10,
        ge=0,
        description="rounds of extra steps after training: with exchange, without, and without the clock; 0 = no probes",
    )
    trace_steps: int = Field(5, ge=0, description="profiled steps after training; 0 = no trace")
    matmul: bool = Field(True, description="measure this device's best matmul rate before training")
    keep_trace: bool = Field(False, description="keep trace.rank{R}.json.gz")


class TrackConfig(Section):
    """Optional sinks beside the run's own files (extra track)."""

    tensorboard: bool = Field(False, description="write TensorBoard events into the run's folder")
    wandb_project: str | None = Field(None, description="log to this Weights & Biases project")


class Config(Section):
    """One run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    parallel: ParallelConfig = ParallelConfig()
    device: DeviceConfig = DeviceConfig()
    measure: MeasureConfig = MeasureConfig()
    track: TrackConfig = TrackConfig()
