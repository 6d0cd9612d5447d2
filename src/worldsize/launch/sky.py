"""SkyPilot: a task YAML a cell for AWS, GCP, Azure or Kubernetes, carried out by the `sky` command. Torch-free.

Each cell gets a cluster of its own name, which is taken down once its runs are here; should this command not come back
for them, SkyPilot takes the idle cluster down itself.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from worldsize.config.load import Loaded
from worldsize.config.schema import Config
from worldsize.config.write import to_yaml
from worldsize.errors import RunError, UserError
from worldsize.launch.engine import Status, ask
from worldsize.launch.jobs import FOLDER, Job
from worldsize.launch.records import JobRecord
from worldsize.launch.ship import REMOTE_DATA, package_folder, rebased, requirements, shipped_files
from worldsize.study.grid import Planned

HOME = "worldsize"
"""Folder of everything of ours in the other machines' home."""
PYTHON = f"~/{HOME}/venv/bin/python"
FIRST_PORT = 29500
IDLE_MINUTES = 60
PROVISIONED_WITHIN_S = 3600.0
NOT_FINISHED = 101
"""What `sky logs --status` exits with while a job waits or runs; 0, 100, 102 and 103 are ends."""
ENDS = {0: "finished", 100: "failed", 102: "not found on its cluster", 103: "cancelled"}


class Sky:
    """The clouds that `sky` can reach from here."""

    def __init__(self, out: Path, config: Config, loaded: Mapping[str, Loaded], *, has_gpus: bool) -> None:
        self.out = out
        self.config = config
        self.loaded = loaded
        self.has_gpus = has_gpus
        launch = config.launch
        if launch.region and not launch.cloud:
            raise UserError("launch.region needs its cloud: --cloud aws.")
        if has_gpus and not (launch.gpu or launch.instance_type):
            raise UserError("--on sky needs the kind of GPU or machine: --gpu H100, or --instance-type g4dn.12xlarge.")

    def task(self, job: Job, runs: Sequence[Planned]) -> dict[str, Any]:
        """Return the task as SkyPilot's YAML has it."""
        cell = job.runs[0].cell.name
        files = {f"~/{HOME}/{REMOTE_DATA}/{name}": str(path) for name, path in self._files().items()}
        return {
            "name": self.cluster(job.name),
            "num_nodes": job.shape.num_nodes,
            "resources": self._resources(job),
            "file_mounts": {
                f"~/{HOME}/src/worldsize": str(package_folder()),
                f"~/{HOME}/{cell}.yaml": str((self.out / FOLDER / f"{cell}.sky-config.yaml").absolute()),
                **files,
            },
            "setup": self._setup(),
            "run": self._run(job, runs),
        }

    def _files(self) -> dict[str, Path]:
        return shipped_files(list(self.loaded.values()))

    def _resources(self, job: Job) -> dict[str, Any]:
        launch = self.config.launch
        asked: dict[str, Any] = {}
        if launch.cloud:
            asked["infra"] = "/".join(part for part in (launch.cloud, launch.region) if part)
        if launch.instance_type:
            asked["instance_type"] = launch.instance_type
        elif self.has_gpus:
            asked["accelerators"] = f"{launch.gpu}:{job.shape.ranks_per_node}"
        else:
            num_cpus = job.shape.ranks_per_node * (launch.cpus_per_rank or self.config.device.threads_per_rank)
            asked["cpus"] = f"{num_cpus}+"
        return asked | ({"use_spot": True} if launch.spot else {})

    def _setup(self) -> str:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        packages = " ".join(map(shlex.quote, requirements()))
        return (
            "set -e\n"
            "python3 -m pip install --quiet uv\n"
            f"[ -x {PYTHON} ] || python3 -m uv venv --python {version} ~/{HOME}/venv\n"
            f"python3 -m uv pip install --python {PYTHON} {packages}\n"
        )

    def _run(self, job: Job, runs: Sequence[Planned]) -> str:
        cell = job.runs[0].cell.name
        prologue = [self.config.launch.prologue.rstrip("\n")] if self.config.launch.prologue else []
        lines = [
            f"cd ~/{HOME}",
            f"export PYTHONPATH=$HOME/{HOME}/src",
            *prologue,
            'first=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)',
            "failed=0",
            "train() {  # PORT FOLDER",
            f"    {PYTHON} -m torch.distributed.run --nnodes {job.shape.num_nodes} \\",
            f'        --nproc-per-node {job.shape.ranks_per_node} --node-rank "$SKYPILOT_NODE_RANK" \\',
            '        --master-addr "$first" --master-port "$1" \\',
            f'        -m worldsize train {cell}.yaml --out "$2" || failed=1',
            "}",
            *(f"train {FIRST_PORT + number} {planned.folder}" for number, planned in enumerate(runs)),
            "exit $failed",
        ]
        return "\n".join(lines) + "\n"

    def cluster(self, job_name: str) -> str:
        """Return the name of a cell's cluster; clouds take short names of lower-case letters, digits and dashes."""
        name = re.sub(r"[^a-z0-9]+", "-", f"worldsize-{self.out.name}-{job_name}".lower())
        return name[:50].strip("-")

    def render(self, job: Job, runs: Sequence[Planned]) -> str:
        """Return the task YAML."""
        return yaml.dump(self.task(job, runs), Dumper=_Readable, sort_keys=False, width=100)

    def submit(self, job: Job, runs: Sequence[Planned]) -> str:
        """Write the task and its config, and let SkyPilot find machines, which takes minutes; return the cluster."""
        cell = job.runs[0].cell.name
        folder = self.out / FOLDER
        there = rebased(self.loaded[cell], REMOTE_DATA)
        (folder / f"{cell}.sky-config.yaml").write_text(to_yaml(there), encoding="utf-8")
        path = folder / f"{job.name}.sky.yaml"
        path.write_text(self.render(job, runs), encoding="utf-8")
        cluster = self.cluster(job.name)
        command = ["sky", "launch", "--cluster", cluster, "--detach-run", "--yes", "--down",
                   "--idle-minutes-to-autostop", str(IDLE_MINUTES), str(path)]  # fmt: skip
        done = ask(command, PROVISIONED_WITHIN_S)
        if done.returncode:
            raise RunError(f"sky refused {path}: {_last_lines(done.stderr or done.stdout)}")
        return cluster

    def poll(self, records: Sequence[JobRecord]) -> dict[str, Status]:
        """Ask each cluster how its last job is."""
        return {record.name: self._status(record) for record in records}

    def _status(self, record: JobRecord) -> Status:
        done = ask(["sky", "logs", "--status", record.id or ""])
        if done.returncode == NOT_FINISHED:
            return Status("running", record.id)
        if done.returncode in ENDS:
            return Status("ended", record.id, ENDS[done.returncode])
        raise RunError(
            f"sky cannot say how {record.id} is: {_last_lines(done.stderr or done.stdout)}. "
            "The same command asks again."
        )

    def collect(self, record: JobRecord) -> None:
        """Keep the log, copy the runs of every node here, and take the cluster down."""
        cluster = record.id or ""
        log = ask(["sky", "logs", "--no-follow", "--tail", "100", cluster], 600.0)
        self._log(record).write_text(log.stdout + log.stderr, encoding="utf-8")
        for node in [cluster, *(f"{cluster}-worker{index}" for index in range(1, record.num_nodes))]:
            source, target = f"{node}:{HOME}/runs/", f"{self.out / 'runs'}/"
            done = ask(["rsync", "--archive", "--compress", "--ignore-existing", "--mkpath", source, target], 3600.0)
            if done.returncode:
                raise RunError(
                    f"the runs on {node} could not be copied: {_last_lines(done.stderr)}. The same command tries "
                    f"again; {IDLE_MINUTES} idle minutes after its last run SkyPilot takes the cluster down."
                )
        down = ask(["sky", "down", "--yes", cluster], 1800.0)
        if down.returncode:
            raise RunError(
                f"{cluster} could not be taken down and may still cost money: "
                f"{_last_lines(down.stderr or down.stdout)}. Type: sky down {cluster}"
            )

    def explain(self, record: JobRecord) -> str:
        """Return how the job ended and its log's last lines."""
        log = self._log(record)
        text = log.read_text("utf-8") if log.is_file() else ""
        return f"SkyPilot cluster {record.id} ({record.reason}). Log: {log}, which ends with\n{_last_lines(text)}"

    def _log(self, record: JobRecord) -> Path:
        return self.out / FOLDER / f"{record.name}.sky.log"


class _Readable(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-6:])
