"""The typed configuration tree: what a run is, before anything runs.

Fields carry their own bounds; rules that need two fields or the world size stand in `rules.py`. Every field's
description is its help text, in `worldsize config --schema` and in the reference page.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from worldsize.config.around import CheckpointConfig, LabConfig, LaunchConfig, TrackConfig
from worldsize.config.section import Section


class ModelConfig(Section):
    """A transformer. The defaults are GPT-2's family; RMSNorm + rotary + SwiGLU + grouped queries is Llama's."""

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
    pooling: Literal["mean", "cls"] = Field(
        "mean", description="what an encoder's class is read from: the mean over real tokens, or a token put in front"
    )
    num_classes: int | None = Field(None, ge=2, description="classes of an encoder; unset = as many as the data has")
    kind: Literal["decoder", "encoder"] | None = Field(
        None,
        description="decoder: each token from those before it; encoder: one class a text, attention both ways; unset = what data.task needs",
    )
    hf: str | None = Field(
        None,
        description="a Hugging Face model's folder or hub name, trained from its weights on; keys of this section's sizes then have no effect (extra hf)",
    )
    hf_config: dict[str, Any] | None = Field(
        None,
        description="a Hugging Face model by its config, such as {model_type: llama, hidden_size: 256}, from random weights (extra hf)",
    )
    implementation: Literal["hugging_face", "worldsize"] | None = Field(
        None,
        description="whose code runs model.hf or model.hf_config; unset = Hugging Face's, and worldsize's decoder with the same weights (of a GPT-2 or a Llama) where parallel.strategy cuts the model: tensor, pipeline, model_parallel",
    )


class DataConfig(Section):
    """Where text comes from, what is learned from it and how it becomes tokens."""

    source: str = Field(
        "python-stdlib",
        description="'python-stdlib', a path (text file, folder, .gz, .xz) or 'hub:NAME[:CONFIG]' (extra hf); of the other tasks rows: .csv, .tsv, .jsonl, .parquet, 'hub:NAME[:CONFIG][@SPLIT]', or a text file with a row a line",
    )
    task: Literal["language_modelling", "classification", "translation"] = Field(
        "language_modelling",
        description="language_modelling: running text; classification: rows of text and label; translation: rows of source and target text",
    )
    target_source: str | None = Field(
        None, description="translation: a text file whose line i translates line i of data.source"
    )
    validation_source: str | None = Field(
        None, description="held-out rows; unset = validation_fraction of data.source, at its end"
    )
    validation_target_source: str | None = Field(
        None, description="translation: the lines that translate those of data.validation_source"
    )
    tokenizer: str = Field(
        "bytes",
        description="'bytes', 'bpe:SIZE' (trained on the corpus, extra hf), or a Hugging Face tokenizer's folder, file or hub name",
    )
    text_column: str = Field(
        "text",
        description="column that holds the text, for translation the source's; several, with commas between, are joined by a space; whole numbers count a .csv's columns from 0 and say that it has no header",
    )
    validation_text_column: str | None = Field(
        None, description="the same in data.validation_source; unset = as data.text_column"
    )
    label_column: str = Field("label", description="classification: column that holds the class")
    target_column: str = Field("target", description="translation: column that holds the target text")
    packing: bool = Field(
        False,
        description="translation: put as many pairs into one sample as the context holds; none of them sees another",
    )
    max_bytes: int | None = Field(None, ge=1, description="use only this much of the corpus; unset = all of it")
    validation_fraction: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the corpus, at its end, held out for evaluation (without a data.validation_source)",
    )
    cache_dir: str | None = Field(
        None, description="where tokenized corpora are kept; unset = $XDG_CACHE_HOME/worldsize or ~/.cache/worldsize"
    )
    num_workers: int | None = Field(None, ge=1, description="processes that tokenize; unset = one a core")

    @property
    def has_held_out(self) -> bool:
        """Whether a part of the data is held out for evaluation."""
        rows = self.task != "language_modelling" and self.validation_source is not None
        return rows or self.validation_fraction > 0


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
    eval_translations: int = Field(
        200, ge=0, description="translation: held-out rows translated after training, for BLEU and chrF; 0 = none"
    )
    eval_beams: int = Field(1, ge=1, description="translation: hypotheses that decoding keeps; 1 = greedy")
    token_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="classification: share of a text's tokens that are hidden in training, drawn from (seed, step, sample), whatever the layout",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of a target's probability that is spread over all classes, in training only"
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
        description="'auto' (single on one device, ddp on more), 'single', 'allreduce', 'ddp', 'fsdp', 'deepspeed', 'tensor', "
        "'pipeline', 'model_parallel' or 'local_sgd'",
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
    bucket_mib: float = Field(
        25.0, gt=0, description="size of a gradient bucket under ddp, deepspeed, and tensor with dp"
    )
    gradient_compression: Literal["none", "bf16", "fp16", "int4", "powersgd"] = Field(
        "none",
        description="what ddp exchanges: gradients as they are, rounded to 16 bits, rounded to 4 bits with what that leaves out kept for the next step, or PowerSGD's low-rank factors, also with what they leave out kept",
    )
    powersgd_rank: int = Field(4, ge=1, description="rank of PowerSGD's factors")
    zero_stage: int | None = Field(
        None,
        ge=0,
        le=3,
        description="what fsdp (2, 3) and deepspeed (0-3) shard: 1 = the optimizer, 2 = gradients too, 3 = parameters too; unset = deepspeed_config's, else 3",
    )
    prefetch_blocks: int | None = Field(
        None,
        ge=1,
        description="blocks whose weights fsdp gathers ahead of the one that computes, in forward and backward; unset = one, as torch does by itself",
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


class Config(Section):
    """One run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    parallel: ParallelConfig = ParallelConfig()
    device: DeviceConfig = DeviceConfig()
    measure: MeasureConfig = MeasureConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    track: TrackConfig = TrackConfig()
    lab: LabConfig = LabConfig()
    launch: LaunchConfig = LaunchConfig()
