"""What fitting laws to a study gives, as records that figures and reports read. Torch-free."""

from __future__ import annotations

from pydantic import Field

from worldsize.records import Record
from worldsize.scaling.interval import Interval


class BandPoint(Record):
    """A point of a law's curve, for figures."""

    devices: float
    step_time_s: Interval = Field(description="the law's own value: between which curves the law may lie")


class Prediction(Record):
    """What a law says of more devices than were measured."""

    devices: int
    global_batch: int
    step_time_s: Interval = Field(description="where one further run will fall")
    speedup: Interval = Field(
        description="of one further run over the smallest number of devices; weak scaling: of the rate (scaled speedup)"
    )
    doubt: str | None = Field(description="why this is not believable, or None")


class Curve(Record):
    """One series at one batch: the global batch under strong scaling, the per-device batch under weak scaling."""

    series: str
    batch: float
    devices: list[int] = Field(description="measured")
    parameters: dict[str, Interval] = Field(description="names end in their units; the rest are pure numbers")
    band: list[BandPoint]
    doublings: list[Prediction]
    believable_to: int = Field(description="devices, by the doublings without doubt")


class LawFit(Record):
    """A law, its curves and the evidence for it."""

    law: str
    title: str
    formula: str
    source: str
    num_parameters: int
    num_runs: int
    noise: float = Field(description="relative standard deviation of one run about the law")
    aicc: float = Field(description="corrected Akaike criterion of log step times: lower is better")
    akaike_weight: float = Field(description="share of the evidence among the laws fitted, 0-1")
    leave_one_out_error: float | None = Field(
        description="relative, root mean square; None when no cell can be spared by this law"
    )
    is_possible: bool = Field(
        description="neither repeats nor a law that fits far better speak against it; simplicity does not count"
    )
    misfit: str | None = Field(description="a sentence when the law is further from the cells than repeats explain")
    curves: list[Curve]


class NotFitted(Record):
    """A law for which the study does not suffice."""

    law: str
    reason: str


class Outlook(Record):
    """The next doublings of one curve by all laws that are possible: what to tell people."""

    series: str
    batch: float
    laws: list[str]
    doublings: list[Prediction] = Field(
        description="values of the law chosen; intervals that hold every possible law's"
    )
    believable_to: int


class LawFits(Record):
    """All laws held against one study."""

    scaling: str
    fits: list[LawFit] = Field(description="best evidence first")
    not_fitted: list[NotFitted]
    best: str | None = Field(description="name of the law chosen; None when none could be fitted")
    outlook: list[Outlook]
    evidence: str = Field(description="why this law, in a sentence")
