"""Sections of what is around a run and changes nothing that is trained: checkpoints, sinks, hosts, launching."""

from __future__ import annotations

from pydantic import Field

from worldsize.config.section import Section


class CheckpointConfig(Section):
    """What survives when a run is cut off (docs/how-to/survive-a-crash.md)."""

    every_steps: int | None = Field(
        None, ge=1, description="save a checkpoint every so many steps and after the last; unset = never"
    )
    keep_last: int = Field(2, ge=1, description="how many of the newest checkpoints are kept")
    keep_best: bool = Field(True, description="keep the one with the lowest evaluation loss too")
    asynchronous: bool = Field(
        True, description="write while training goes on; false = training stands still meanwhile"
    )


class TrackConfig(Section):
    """Optional sinks beside the run's own files (extra track)."""

    tensorboard: bool = Field(False, description="write TensorBoard events into the run's folder")
    wandb_project: str | None = Field(None, description="log to this Weights & Biases project")


class LabConfig(Section):
    """Emulated hosts: network namespaces of this Linux machine, joined by links with a rate limit. Needs root."""

    hosts: int = Field(1, ge=1, description="hosts that the ranks are spread over, 64 at most; 1 = no emulation")
    link: str | None = Field(
        None,
        description="rate of each host's link in each direction, such as 10gbit, 1gbit or 100mbit; unset = no limit",
    )
    latency_ms: float = Field(
        0.0, ge=0, description="delay of a packet from one host to another, ms; needs the kernel's netem"
    )


ONE_LINE = r"^[^\r\n]*$"
ONE_WORD = r"^[^\s'\"]+$"


class LaunchConfig(Section):
    """How `worldsize launch` reaches machines: what a job needs around the run. It changes nothing that is trained."""

    time: str | None = Field(
        None,
        pattern=r"^(\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d(:\d\d)?)?)$",
        description="a job's time limit as Slurm writes it: minutes, HH:MM:SS or D-HH:MM:SS; unset = the partition's (Modal: a day)",
    )
    partition: str | None = Field(None, pattern=ONE_WORD, description="Slurm partition")
    account: str | None = Field(None, pattern=ONE_WORD, description="Slurm account that is charged")
    constraint: str | None = Field(None, pattern=ONE_WORD, description="Slurm node features, such as a100&nvlink")
    exclusive: bool = Field(
        True, description="Slurm lets no other job onto the nodes: it would be measured too; false = nodes are shared"
    )
    sbatch_options: str = Field("", pattern=ONE_LINE, description="more options of sbatch, such as --mem=0 --qos=short")
    cpus_per_rank: int | None = Field(
        None, ge=1, description="cores that Slurm gives each rank; unset = device.threads_per_rank"
    )
    warning_s: int = Field(
        120,
        ge=1,
        description="so long before a job's end Slurm asks its runs to save and makes it wait again",
    )
    max_requeues: int = Field(20, ge=0, description="a job that was made to wait again more often than this ends")
    modules: str = Field(
        "", pattern=ONE_LINE, description="environment modules that a Slurm job loads, such as cuda/12.4 gcc"
    )
    prologue: str = Field("", description="shell lines that a job runs before its first run, on its first node")
    container: str | None = Field(
        None, pattern=ONE_LINE, description="Apptainer image in which a Slurm job's ranks run"
    )
    container_options: str = Field(
        "", pattern=ONE_LINE, description="options of apptainer exec, such as --bind /scratch"
    )
    python: str | None = Field(
        None,
        pattern=ONE_LINE,
        description="interpreter of a job; unset = the one that launches (in a container: python)",
    )
    gpu: str | None = Field(
        None, pattern=ONE_WORD, description="GPU type on Modal and SkyPilot, such as H100 or A100-80GB"
    )
    cloud: str | None = Field(
        None,
        pattern=ONE_WORD,
        description="where SkyPilot launches: aws, gcp, azure, kubernetes …; unset = the cheapest",
    )
    region: str | None = Field(None, pattern=ONE_WORD, description="the cloud's region; unset = the cheapest")
    instance_type: str | None = Field(None, pattern=ONE_WORD, description="the cloud's machine, such as g4dn.12xlarge")
    spot: bool = Field(False, description="take machines that the cloud may take back, for less money (SkyPilot)")
