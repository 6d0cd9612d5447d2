"""What an audit reads and what it says: a row of somebody's numbers, findings, comparisons.

Torch-free. Every column of a `Row` is optional, because published numbers rarely tell all; a column that is missing
limits what can be told and is named as missing, never assumed (docs/reference/audit-format.md).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from worldsize.records import SCHEMA_VERSION, Record

LARGEST = 1e15
"""Beyond this a number is a slip of the keyboard, and products of two would no longer be exact."""

Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
MaybeNoSeconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=int(LARGEST))]
CountOrNone = Annotated[int, Field(ge=0, le=int(LARGEST))]
Rate = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
Loss = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class Row(Record):
    """One measured point as somebody published it. Counts and rates belong to the time given: see `seconds`."""

    where: str = Field("", description="file and line, filled in by the reader; not a column")
    series: Text | None = Field(None, description="only rows of one series are compared")
    run: Text | None = Field(None, description="a name for the row")
    devices: Annotated[int, Field(ge=1, le=10**7)] | None = Field(None, description="world size")
    scaling: Literal["strong", "weak"] | None = Field(None, description="declared mode; weak compares rates only")

    time_s: Seconds | None = Field(None, description="wall time of the whole measurement")
    epoch_time_s: Seconds | None = Field(None, description="wall time of one epoch")
    step_time_s: Seconds | None = Field(None, description="wall time of one optimizer step")
    micro_step_time_s: Seconds | None = Field(None, description="wall time per micro step")
    per_rank_times_s: list[Seconds] | None = Field(None, description="the same wall time as each rank saw it")
    step_times_s: list[Seconds] | None = Field(None, description="steps that count, in order")
    sampled_time_s: Seconds | None = Field(None, description="mean of sampled times of one micro step")
    sampling_stride: Count | None = Field(None, description="micro steps from one sample to the next")
    communication_s: MaybeNoSeconds | None = Field(None, description="part of the time, as reported")
    compute_s: MaybeNoSeconds | None = Field(None, description="part of the time, as reported")

    steps: Count | None = Field(None, description="optimizer steps in the time")
    micro_steps: Count | None = Field(None, description="forward passes of one rank in the time")
    accumulation: Count | None = Field(None, description="micro steps in an optimizer step")
    epochs: Count | None = Field(None, description="passes over the data in time_s")
    samples: Count | None = Field(None, description="samples that all ranks together consumed in the time")
    samples_per_rank: Count | None = Field(None, description="samples that one rank consumed in the time")
    tokens: Count | None = Field(None, description="tokens that all ranks together consumed in the time")
    global_batch: Count | None = Field(None, description="samples of all devices in an optimizer step")
    per_device_batch: Count | None = Field(None, description="samples of one device in an optimizer step")
    warmup_steps: CountOrNone | None = Field(None, description="optimizer steps of learning-rate warm-up")

    tokens_per_s: Rate | None = Field(None, description="as published")
    samples_per_s: Rate | None = Field(None, description="as published")
    throughput: Rate | None = Field(None, description="as published, in a unit that is not told")
    throughput_is: Literal["total", "per_rank"] | None = Field(None, description="what the rate is presented as")
    claimed_speedup: Rate | None = Field(None, description="over the fewest devices of the series")

    first_loss: Loss | None = Field(None, description="training loss at the start")
    last_loss: Loss | None = Field(None, description="training loss at the end")
    validation_loss: Loss | None = Field(None, description="loss on held-out data at the end")

    model: Text | None = None
    data: Text | None = None
    context_length: Count | None = None
    precision: Text | None = None
    optimizer: Text | None = None
    schedule: Text | None = None
    learning_rate: Rate | None = None
    device: Text | None = Field(None, description="kind of device")
    strategy: Text | None = None

    @property
    def seconds(self) -> float | None:
        """The time that counts and rates belong to: time_s, else epoch_time_s, else the slowest rank's (s)."""
        slowest = max(self.per_rank_times_s) if self.per_rank_times_s else None
        return self.time_s or self.epoch_time_s or slowest

    @property
    def all_samples(self) -> int | None:
        """Samples that all ranks together consumed, where it is told or follows."""
        if self.samples is not None:
            return self.samples
        return self.samples_per_rank * self.devices if self.samples_per_rank and self.devices else None


class Correction(Record):
    """What a number would be, where the data allow it."""

    quantity: str = Field(description="'speedup', 'tokens_per_s', 'time_s' …")
    value: float
    text: str = Field(description="how it is printed, with unit: '3.20x by samples processed'")
    formula: str


class Finding(Record):
    """Something that a named rule says of a row or a comparison (docs/explain/audit-rules.md has an entry a rule)."""

    rule: str
    severity: Literal["blocks", "doubts", "warns"] = Field(
        description="'blocks': the number does not stand; 'doubts': it cannot be told until this is settled; "
        "'warns': it stands, with this beside it"
    )
    about: Literal["time", "work", "setting", "rate", "communication", "quality", "sampling"] = Field(
        description="what it makes unfit: a comparison of times does not suffer from a wrong rate"
    )
    where: str
    message: str
    figures: dict[str, float] = Field(default_factory=dict)
    corrections: list[Correction] = Field(default_factory=list)


class LostTime(Record):
    """Where the time went that an ideal division over the devices would have saved (s)."""

    ideal_s: float = Field(description="time on the fewest devices × their number / the number of devices")
    lost_s: float = Field(description="time − ideal_s")
    communication_s: float
    communication_share: float = Field(description="communication_s / lost_s")
    compute_excess_s: float | None = Field(
        None, description="compute_s − ideal share of the baseline's compute_s; None where compute was not reported"
    )
    compute_excess_share: float | None = None
    rest_s: float = Field(description="lost_s − the parts above: everything that nobody timed apart")
    rest_share: float
    message: str


class Comparison(Record):
    """Two points along the devices, by one quantity."""

    name: str = Field(description="'1 → 4 devices', with the series' name where there are several")
    source: str
    quantity: str = Field(description="the column compared: 'time_s', 'tokens_per_s' …")
    baseline: str = Field(description="where the baseline is written down")
    compared: str
    baseline_devices: int
    devices: int
    baseline_value: float
    value: float
    ratio: float = Field(description="as the numbers are given: how many times as fast")
    claimed: float | None = None
    status: Literal["stands", "does not stand", "cannot be told"]
    findings: list[Finding] = Field(default_factory=list)
    corrections: list[Correction] = Field(default_factory=list)
    not_told: list[str] = Field(default_factory=list, description="what would have to be known, and is not given")
    lost_time: LostTime | None = None


class Audit(Record):
    """Everything that one call of `worldsize audit` found; every print comes from it."""

    schema_version: int = SCHEMA_VERSION
    sources: list[str]
    num_rows: int
    headline: str
    comparisons: list[Comparison]
    findings: list[Finding] = Field(description="about single rows")
    notes: list[str] = Field(default_factory=list, description="columns that were not read, rows without a partner")
