"""What a launch leaves in the study's folder: `launch.json` (LaunchBook). Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from worldsize.records import SCHEMA_VERSION, Record
from worldsize.study.records import StudyResult

EngineName = Literal["slurm", "modal", "sky"]
State = Literal["not submitted", "waiting", "running", "finished", "failed"]


class JobRecord(Record):
    """One job of an engine: what it runs, and how far it is."""

    name: str = Field(description="n8 for a world size's job (Slurm), the cell's name for a cell's (Modal, SkyPilot)")
    num_nodes: int
    ranks_per_node: int
    runs: list[str] = Field(description="folders relative to the study, in the order in which the job runs them")
    state: State = "not submitted"
    id: str | None = Field(None, description="the engine's own name for it")
    nodes: str | None = Field(None, description="where it runs or ran, as the engine writes it")
    reason: str | None = Field(None, description="why it waits, or why it failed")
    num_restarts: int = Field(0, description="how often the engine made it wait and start again")
    submitted_at: str | None = None
    num_submissions: int = 0

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.ranks_per_node


class LaunchBook(Record):
    """launch.json: every job of a study, so that the same command picks up where the last one was."""

    schema_version: int = SCHEMA_VERSION
    engine: EngineName
    jobs: list[JobRecord]


class JobCost(Record):
    """What one job is expected to cost."""

    job: str
    num_devices: int
    num_runs: int = Field(description="runs that are left")
    run_s: float = Field(description="expected duration of one run")
    run_s_source: str = Field(description="where that duration comes from")
    cost: float = Field(description="price × devices × hours, in the price's own currency")


class CostEstimate(Record):
    """What is left to run, in money; start-up and downloads, which most clouds charge too, are not in it."""

    price_per_device_hour: float
    jobs: list[JobCost]
    cost: float


class LaunchReport(Record):
    """What `worldsize launch --json` prints."""

    schema_version: int = SCHEMA_VERSION
    engine: EngineName
    folder: str
    jobs: list[JobRecord]
    files: dict[str, str] = Field(
        default_factory=dict, description="with --dry-run: job → the text that would be submitted"
    )
    costs: CostEstimate | None = None
    result: StudyResult | None = Field(None, description="None until a run has finished")
