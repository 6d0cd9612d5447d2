"""What a run leaves on disk and hands to whatever explains it: run records, step rows, results.

Torch-free, so that a laptop reads what a cluster wrote. A run's folder holds `run.json` (RunRecord, written
first), `steps.rank{R}.jsonl` (a StepRow a line) and `result.json` (RunResult, written last and atomically: its
presence means that the run finished). A measured run and a predicted one have the same shape. Records of a study are
in study/records.py.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

PHASES = (
    "data_wait_s",
    "host_to_device_s",
    "compute_s",
    "exposed_communication_s",
    "bubble_s",
    "optimizer_s",
    "other_s",
)
"""The phases of a step, in the order in which they are drawn. They sum to the step's wall time (docs/explain/phases.md)."""


class Record(BaseModel):
    """Base of everything on disk: unknown keys are errors, so that a renamed field cannot pass unnoticed; so is NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Measured(Record):
    """A number with its samples: the median, and the ends of its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    samples: list[float]


class Problem(Record):
    """Something that makes a number unfit or doubtful, found by a named rule (docs/explain has a page a rule)."""

    rule: str = Field(description="short name, e.g. 'unequal-work'")
    severity: Literal["blocks", "warns"] = Field(
        description="'blocks': no speedup may be printed; 'warns': printed with the warning"
    )
    message: str = Field(
        description="one or two sentences with the figures: what is wrong, on which rank and step, what to do"
    )


class Origin(Record):
    """Where a config value came from."""

    value: Any
    source: str = Field(description="'default', 'preset NAME', 'file PATH', 'override', 'derived' …")


class EmulatedNetwork(Record):
    """Hosts emulated in network namespaces of one machine, and the links between them (docs/how-to/lab.md)."""

    num_hosts: int
    link_bit_per_s: float | None = Field(description="limit of each host's link in each direction; None = no limit")
    latency_s: float = Field(description="delay that was added to a packet from one host to another")
    all_reduce_bit_per_s: float | None = Field(
        None, description="rate that a short all-reduce before training reached over each host's link"
    )


class Environment(Record):
    """The machine and software of one run. What could not be found out is None."""

    hostname: str
    platform: str
    python: str
    torch: str | None = None
    worldsize: str
    code_version: str = Field(
        description="digest of worldsize's own source files, so that unequal code is noticed even outside git"
    )
    cpu_name: str | None = None
    num_cores: int
    memory_bytes: int
    device_kind: str = Field(description="'cpu' or 'cuda'")
    device_names: list[str] = Field(description="one a rank")
    backend: str | None = Field(None, description="'gloo', 'nccl', or None on one device")
    threads_per_rank: int
    pinned_cores: list[list[int]] | None = Field(None, description="per rank, or None when not pinned")
    num_hosts: int = Field(1, description="real hosts; emulated ones are one")
    emulated: EmulatedNetwork | None = Field(None, description="None where no hosts are emulated")

    @property
    def has_network(self) -> bool:
        """Whether ranks talk over a network: real hosts, or emulated ones."""
        return self.num_hosts > 1 or self.emulated is not None


class RunRecord(Record):
    """run.json: everything known before the first step."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["measured", "predicted"] = "measured"
    config: dict[str, Any] = Field(description="the resolved config tree")
    origins: dict[str, Origin] = Field(description="dotted key → value and where it came from")
    command: list[str]
    started_at: str = Field(description="ISO 8601, UTC")
    world_size: int
    layout: dict[str, int] = Field(description="dp, fsdp, tp, pp")
    strategy: str
    tokens_digest: str | None = Field(None, description="of the tokenized corpus: the same path may hold another text")
    num_parameters: int
    flop_per_token: float = Field(description="model FLOP of forward and backward for one token, causal attention")
    environment: Environment


class StepRow(Record):
    """One line of steps.rank{R}.jsonl: one optimizer step as one rank saw it."""

    step: int
    warmup: bool = Field(description="left out of every timing")
    saving: bool = Field(
        False,
        description="a checkpoint was being written meanwhile: left out of every timing while other steps are left",
    )
    wall_s: float
    phases_s: dict[str, float] = Field(description="sums to wall_s")
    num_samples: int = Field(description="samples that this rank consumed")
    num_tokens: int = Field(description="input tokens, padding excluded, that this rank consumed")
    num_targets: int | None = Field(
        None, description="targets that the loss sums over; None = as many as tokens, as in language modelling"
    )
    loss_sum: float = Field(description="sum of the loss over those targets")
    grad_norm: float | None = Field(None, description="norm of the whole gradient before clipping")
    local_grad_norm: float | None = Field(
        None,
        description="norm of the mean gradient over this rank's own samples, before the exchange; beside grad_norm it gives the gradient noise scale",
    )
    learning_rate: float
    memory_bytes: int | None = Field(None, description="memory in use at the window's end")

    @property
    def targets(self) -> int:
        """What the loss is divided by."""
        return self.num_tokens if self.num_targets is None else self.num_targets


class CollectiveCount(Record):
    """The collectives of one kind in one group that one rank issues in one step."""

    kind: str = Field(description="'all_reduce', 'all_gather', 'reduce_scatter', 'send', 'recv', 'broadcast' …")
    group: str = Field(description="mesh axis or product of axes: 'dp', 'tp' …")
    group_size: int
    payload_bytes: int = Field(description="bytes handed to the collectives by one rank in one step")


class CommunicationBytes(Record):
    """Predicted by the strategy from the model's description; observed in traced steps. The two must be equal."""

    predicted: list[CollectiveCount]
    observed: list[CollectiveCount] | None = Field(description="None when no step was traced")


class ExposedCommunication(Record):
    """Exposed communication of one step, seconds, three ways (docs/explain/exposed-communication.md); mean over ranks."""

    clock_s: Measured = Field(description="from the phases of the timed steps")
    ablation_s: Measured | None = Field(None, description="steps with exchange minus steps without, interleaved")
    ablation_absent_because: str | None = Field(None, description="why no step can run without the exchange")
    trace_s: Measured | None = Field(
        None, description="intervals of communication minus intervals of compute in traced steps"
    )
    contention_s: Measured | None = Field(
        None,
        description="part of clock_s in which the compute thread was kept off its core while communication was in flight: invisible to the trace",
    )
    copies_s: Measured | None = Field(
        None,
        description="time in traced steps that gradients are copied into exchange buckets: part of the ablation, compute in the trace",
    )
    traced_step_s: Measured | None = Field(
        None, description="wall time of the traced steps; what it has over the step time is the profiler's"
    )
    disagreement: str | None = Field(
        None, description="a sentence when ablation and trace differ by more than 10 %, with what accounts for it"
    )


class Bubble(Record):
    """Idle time of a pipeline's ranks in one step, three ways, mean over ranks (docs/explain/bubble.md).

    Shares are of idle and computing time together.
    """

    schedule: str
    num_micro_batches: int
    stage_layers: list[int] = Field(description="blocks in each stage")
    ideal_share: float = Field(description="by the schedule's formula: equal stages, messages that take no time")
    simulated_s: float = Field(
        description="the schedule replayed with each timed step's own times of actions, messages at their mean: the median over steps"
    )
    simulated_share: float
    observed_s: Measured = Field(description="bubble_s of the timed steps")
    observed_share: float


class MeasuringCost(Record):
    """What measuring adds to a step: steps with the clock minus steps without, interleaved."""

    per_step_s: Measured
    share_of_step: float
    marks_s: float = Field(description="cost of one step's clock marks, timed alone in a tight loop")


class ClassificationQuality(Record):
    """How a classifier does on held-out rows (docs/explain/accuracy.md)."""

    accuracy: float = Field(ge=0, le=1, description="share of the rows whose class is found")
    macro_f1: float = Field(ge=0, le=1, description="mean over classes of the harmonic mean of precision and recall")
    labels: list[str] = Field(description="names of the classes")
    confusion: list[list[int]] = Field(description="rows of true class i (line) taken for class j (column)")


class TranslationQuality(Record):
    """How translations of held-out rows compare with their references (docs/explain/bleu.md)."""

    num_sentences: int
    num_beams: int = Field(description="hypotheses that decoding kept; 1 = greedy")
    bleu: float = Field(description="corpus BLEU, 0-100, by sacrebleu")
    bleu_signature: str
    chrf: float = Field(description="chrF, 0-100, by sacrebleu")
    chrf_signature: str
    seconds: float = Field(description="wall time of decoding on the slowest rank, all ranks sharing the sentences")
    examples: list[list[str]] = Field(description="the first few: source, translation, reference")


class Evaluation(Record):
    """Loss and quality on held-out data after a step."""

    step: int
    loss: float
    num_tokens: int = Field(description="input tokens, padding excluded")
    perplexity: float | None = Field(None, description="exp(loss) of a model of text; None for a classifier")
    bits_per_byte: float | None = Field(
        None, description="language modelling: the loss in bits over the bytes of the text predicted"
    )
    classification: ClassificationQuality | None = None
    translation: TranslationQuality | None = Field(None, description="after the last step only")


class Checksum(Record):
    """A digest of all weights, per rank, after a step (0 = before the first)."""

    step: int
    by_rank: list[str]


class RankSummary(Record):
    """What one rank saw over the timed steps."""

    rank: int
    step_time_s: float = Field(description="median wall time of its steps")
    phases_s: dict[str, float] = Field(description="its phases, scaled to that median")
    num_samples: int
    num_tokens: int
    samples_digest: str = Field(description="digest of the (step, sample id) pairs that it consumed")
    peak_memory_bytes: int
    matmul_flop_per_s: float | None = Field(
        None, description="best matmul rate measured on this device in this run's dtype, by the fastest way known"
    )
    stock_matmul_flop_per_s: float | None = Field(None, description="the same by torch's F.linear alone")


class CheckpointSave(Record):
    """What one checkpoint cost, as rank 0 saw it."""

    step: int
    standstill_s: float = Field(description="training stood still: copying, or all of it when not asynchronous")
    whole_after_s: float = Field(description="from its beginning until it lay whole on the disk")
    num_steps: int = Field(description="steps that went on beside it; they carry the mark `saving`")


class RunResult(Record):
    """result.json: what a finished run measured. Per-step lists run over all steps, warm-up included."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["measured", "predicted"] = "measured"
    world_size: int
    layout: dict[str, int]
    strategy: str
    num_steps: int
    num_warmup_steps: int
    samples_digest: str = Field(
        description="digest of the (step, sample id) pairs consumed by all ranks; the order within a step does not matter"
    )
    samples_digest_expected: str = Field(description="the same, of the pairs that (seed, step, global batch) prescribe")
    num_samples: int
    num_tokens: int
    losses: list[float] = Field(description="a step's loss: sum over all ranks' target tokens / their count")
    grad_norms: list[float | None] = Field(description="of the whole gradient before clipping; None without clipping")
    local_grad_norms: list[float | None] = Field(
        default_factory=list,
        description="root mean square over ranks of the norm of each rank's own mean gradient; None where ranks hold none",
    )
    evaluations: list[Evaluation]
    checksums: list[Checksum]
    checkpoints: list[CheckpointSave] = Field(
        default_factory=list, description="one a save, in order; empty without checkpoints"
    )
    resumed_after: list[int] = Field(
        default_factory=list,
        description="steps done at each point where the run went on from a checkpoint after a stop",
    )
    step_time_s: Measured = Field(description="per timed step the slowest rank's wall time")
    phases_s: dict[str, float] = Field(description="mean over ranks, sums to step_time_s.median")
    tokens_per_s: float = Field(description="all devices together: tokens of a step / step_time_s.median")
    peak_memory_bytes: list[int] = Field(description="per rank")
    allocated_bytes: list[int] = Field(
        default_factory=list,
        description="per rank: the most that training has allocated at one time within a step; empty where not known",
    )
    allocated_absent_because: str | None = None
    held_bytes: list[int] = Field(
        default_factory=list, description="per rank: weights and optimizer state that it keeps between steps"
    )
    ranks: list[RankSummary]
    communication_bytes: CommunicationBytes
    exposed_communication: ExposedCommunication | None = Field(None, description="None at world size 1")
    bubble: Bubble | None = Field(None, description="None where ranks are no pipeline")
    model_flop_per_s: float = Field(description="per device: model FLOP of a step / step time / world size")
    mfu: float | None = Field(
        None, description="model_flop_per_s / the device's dense peak; None when the peak is not known"
    )
    mfu_absent_because: str | None = None
    mfu_vs_measured_matmul: float | None = Field(
        None, description="model_flop_per_s / the best matmul rate measured here, by the fastest way known"
    )
    mfu_vs_stock_matmul: float | None = Field(
        None, description="the same against torch's F.linear; above 1 where our linear layers go a faster way"
    )
    measuring_cost: MeasuringCost | None = None
    energy_j: float | None = Field(
        None,
        description="energy of all training steps, warm-up included, all devices; None when no counter can be read",
    )
    energy_absent_because: str | None = None
    wall_s: float = Field(
        description="from the first step's start to the last step's end, evaluations and checksums between them included"
    )
    finished_at: str
