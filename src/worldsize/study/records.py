"""What a study leaves on disk: `study.json` (StudyPlan), `runs/`, and `results.json` (StudyResult)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from worldsize.records import SCHEMA_VERSION, Bubble, Environment, ExposedCommunication, Measured, Problem, Record
from worldsize.scaling.fit_records import LawFits
from worldsize.scaling.noise_scale import NoiseScale
from worldsize.scaling.what_if import WhatIf


class PlannedRemedy(Record):
    """Runs that --try-remedies added: a cell with one remedy, or as it is beside them."""

    name: str = Field(description="folder of its repeats under runs/")
    cell: str = Field(description="the cell that it is for")
    baseline: str
    remedy: str
    what: str
    world_size: int
    overrides: list[str] = Field(description="on top of the study's config")


class StudyPlan(Record):
    """study.json: the grid, in the order in which it runs."""

    schema_version: int = SCHEMA_VERSION
    command: list[str]
    scaling: Literal["strong", "weak"]
    repeats: int
    world_sizes: list[int]
    global_batches: list[int] = Field(
        description="at the smallest world size; under weak scaling it grows with the world size"
    )
    vary: dict[str, list[Any]] = Field(description="config key → values")
    until: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="further rounds run until every speedup's interval is at most this share of its median wide",
    )
    max_repeats: int = Field(10, description="with `until`: rounds at most")
    target_loss: float | None = Field(
        None, description="for the time to a loss; None = the smallest that all cells reach"
    )
    try_remedies: bool = Field(False, description="cells slower than their baseline run again with each remedy")
    remedies: list[PlannedRemedy] = Field(default_factory=list, description="known once the grid's own runs have ended")
    config: dict[str, Any] = Field(description="the base config")

    @property
    def num_rounds(self) -> int:
        """How many repeats a cell may have."""
        return max(self.repeats, self.max_repeats) if self.until else self.repeats


class RunFailure(Record):
    """A cell's repeat that did not finish."""

    run: str = Field(description="folder, relative to the study")
    reason: str


class CellResult(Record):
    """All repeats of one point of the grid."""

    name: str = Field(description="short and unique: also the cell's folder")
    world_size: int
    global_batch: int
    vary: dict[str, Any]
    strategy: str | None = None
    layout: dict[str, int] | None = None
    is_baseline: bool
    baseline: str | None = Field(None, description="name of the cell that it is compared with")
    runs: list[str] = Field(description="folders of finished repeats, relative to the study")
    failures: list[RunFailure] = Field(default_factory=list)
    step_time_s: Measured | None = Field(None, description="samples: one median a repeat")
    tokens_per_s: Measured | None = None
    phases_s: dict[str, float] = Field(default_factory=dict)
    speedup: Measured | None = Field(
        None, description="T(baseline) / T(cell) for the same work; None when not comparable, see problems"
    )
    efficiency: Measured | None = Field(
        None,
        description="strong: speedup × baseline devices / devices; weak: tokens per second and device over the baseline's",
    )
    overridden: bool = Field(False, description="the speedup is printed although the gate refused it")
    other_maths: bool = Field(
        False, description="it or its baseline trains otherwise than one device would: compare by loss at equal tokens"
    )
    exposed_communication_share: float | None = Field(None, description="of the step time")
    exposed_communication: ExposedCommunication | None = None
    bubble: Bubble | None = Field(None, description="None where ranks are no pipeline")
    compute_to_communication: float | None = Field(
        None, description="compute_s / exposed_communication_s; None when nothing is exposed"
    )
    peak_memory_bytes: int | None = Field(None, description="of the rank that needs most")
    allocated_bytes: int | None = Field(
        None, description="the most that training has allocated at one time within a step; of the rank that needs most"
    )
    held_bytes: int | None = Field(
        None, description="weights and optimizer state that a rank keeps between steps; of the rank that holds most"
    )
    mfu: float | None = None
    mfu_vs_measured_matmul: float | None = None
    measuring_cost_share: float | None = None
    final_loss: float | None = None
    losses: list[float] = Field(default_factory=list, description="of the first finished repeat")
    lost_time: LostTime | None = Field(None, description="None for a baseline and where the work is not the same")
    break_even: BreakEven | None = Field(None, description="None for a baseline and where the work is not the same")
    time_to_loss: TimeToLoss | None = Field(None, description="None where the target is not reached")
    equal_tokens: EqualTokens | None = Field(None, description="None where the work is not the same")
    noise_scale: NoiseScale | None = Field(None, description="None where ranks hold no gradient of their own")
    held_out: HeldOut | None = Field(None, description="None where the runs were not evaluated")
    problems: list[Problem] = Field(default_factory=list)


class HeldOut(Record):
    """Quality on held-out data after training; samples: one a repeat."""

    loss: Measured = Field(description="nats a target")
    perplexity: Measured | None = None
    bits_per_byte: Measured | None = Field(None, description="of language models")
    accuracy: Measured | None = Field(None, description="of classifiers")
    macro_f1: Measured | None = Field(None, description="of classifiers")
    bleu: Measured | None = Field(None, description="of translations, 0-100")
    chrf: Measured | None = Field(None, description="of translations, 0-100")
    labels: list[str] = Field(default_factory=list, description="names of the classes")
    confusion: list[list[int]] = Field(
        default_factory=list, description="rows of true class i (line) taken for class j (column), over all repeats"
    )
    signatures: list[str] = Field(default_factory=list, description="sacrebleu's, of BLEU and of chrF")
    examples: list[list[str]] = Field(default_factory=list, description="source, translation, reference")


class LostTime(Record):
    """Where a step's time beyond the ideal went: the parts sum to lost_s; a negative part was won back."""

    ideal_s: float = Field(
        description="the baseline's step time × its devices / the cell's devices; weak scaling: the baseline's"
    )
    lost_s: float = Field(description="step time - ideal_s")
    parts_s: dict[str, float] = Field(
        description="waiting_s (for the slowest rank) and transfer_s, or exposed_communication_s where the two cannot be told apart; compute_excess_s, optimizer_s, data_s, bubble_s, other_s"
    )


class TimeToLoss(Record):
    """How long a cell trains until its loss, smoothed, first reaches the study's target."""

    target: float
    steps: int
    tokens: int
    seconds: Measured


class BreakEven(Record):
    """Where a cell would do its work as fast as its baseline (docs/explain/break-even.md)."""

    exposed_s: float = Field(description="exposed communication of a step")
    affordable_s: float = Field(
        description="the exposed communication at which both are as fast; below 0: slower even without any"
    )
    wire_s: float | None = Field(
        description="how long a step's exchange keeps a host's link busy; None where no link was measured"
    )
    link_bit_per_s: float | None = Field(description="what the link gave before training, median over repeats")
    break_even_link_bit_per_s: float | None = Field(description="None: not known, or no link suffices")
    break_even_global_batch: int | None = Field(
        description="at equal learning per sample; None: no batch suffices, as compute gains nothing"
    )


class EqualTokens(Record):
    """The loss, smoothed, after as many tokens as the study's shortest cell trained on."""

    tokens: int
    loss: float


class RemedyTrial(Record):
    """What a remedy brought to a cell that is slower than its baseline, judged at equal tokens."""

    cell: str
    remedy: str = Field(description="'as-it-is' for the cell without one, run in the same rounds")
    what: str
    overrides: list[str] = Field(description="on top of the study's config")
    runs: list[str] = Field(description="folders of finished repeats, relative to the study")
    failures: list[RunFailure] = Field(default_factory=list)
    speedup: Measured | None = Field(
        None,
        description="the baseline's time for a token / the cell's, baseline and cell of the same rounds; for equally many tokens, not for the same arithmetic",
    )
    global_batch: int | None = None
    num_steps: int | None = None
    num_tokens: int | None = Field(None, description="target tokens of the whole run")
    payload_bytes: int | None = Field(None, description="bytes one rank hands to collectives in a step, as predicted")
    exposed_communication_share: float | None = None
    changes_arithmetic: bool = Field(False, description="another arithmetic than the baseline's: judge it by the loss")
    loss: float | None = Field(None, description="on held-out text after the last step")
    baseline_loss: float | None = Field(None, description="the same of the baseline")
    loss_change: float | None = Field(
        None, description="loss / baseline_loss - 1; None where tokens differ or no loss was measured"
    )

    @property
    def turned_positive(self) -> bool:
        """Whether the cell is faster than its baseline, beyond the noise."""
        return self.speedup is not None and self.speedup.low > 1


class Verdict(Record):
    """The study in words, every figure in them computed from the measurements."""

    headline: str = Field(description="one sentence")
    why: list[str]
    next: list[str] = Field(description="what to try, with what it should give")
    evidence: list[str]


class StudyResult(Record):
    """results.json: the table, the verdict and the problems; every print of a study comes from it."""

    schema_version: int = SCHEMA_VERSION
    title: str
    scaling: Literal["strong", "weak"]
    cells: list[CellResult]
    verdict: Verdict
    problems: list[Problem] = Field(default_factory=list)
    fits: LawFits | None = Field(
        None, description="scaling laws held against the cells; None with fewer than two device counts"
    )
    what_ifs: list[WhatIf] = Field(
        default_factory=list, description="what this study's own fitted model says of settings that were not run"
    )
    remedies: list[RemedyTrial] = Field(default_factory=list, description="what --try-remedies ran")
    environment: Environment | None = None
    config: dict[str, Any] = Field(default_factory=dict, description="of the baseline's first run")
    command: list[str] = Field(default_factory=list)
