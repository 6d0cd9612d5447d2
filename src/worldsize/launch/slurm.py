"""Slurm: a readable sbatch script a world size, its state from squeue, its failure from its log. Torch-free.

The study's folder must lie on a file system that the login node and the compute nodes share, as must the Python
environment (or the container's image): nothing is copied.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsize.config.around import LaunchConfig
from worldsize.config.schema import Config
from worldsize.errors import RunError
from worldsize.launch.engine import Status, ask
from worldsize.launch.jobs import FOLDER, Job, config_path
from worldsize.launch.local import is_echo
from worldsize.launch.records import JobRecord
from worldsize.study.grid import Planned

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
FIELDS = "%i|%T|%N|%r"
LOG_LINES = 6


class Slurm:
    """The cluster that sbatch and squeue speak to here."""

    def __init__(self, out: Path, config: Config, *, has_gpus: bool) -> None:
        self.out = out.absolute()
        self.config = config
        self.has_gpus = has_gpus

    def render(self, job: Job, runs: Sequence[Planned]) -> str:
        """Return the sbatch script that carries out `runs` in order."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("worldsize.launch"),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
        )
        environment.filters["sh"] = shlex.quote
        return environment.get_template("slurm.sh.j2").render(self._values(job, runs))

    def _values(self, job: Job, runs: Sequence[Planned]) -> dict[str, Any]:
        launch = self.config.launch
        return {
            "study": self.out.name,
            "job_name": re.sub(r"[^\w.-]", "_", f"worldsize-{self.out.name}-{job.name}"),
            "num_runs": len(runs),
            "world_size": job.shape.world_size,
            "num_nodes": job.shape.num_nodes,
            "ranks_per_node": job.shape.ranks_per_node,
            "gpus_per_node": job.shape.ranks_per_node if self.has_gpus else None,
            "cpus_per_rank": launch.cpus_per_rank or self.config.device.threads_per_rank,
            "log": str(self._log(job.name, "%j")),
            "working_directory": str(Path.cwd()),
            "launch": launch,
            "python": python_of(launch),
            "runs": [(str(self.out / config_path(p.cell.name)), str(self.out / p.folder)) for p in runs],
        }

    def _log(self, job_name: str, job_id: str) -> Path:
        return self.out / FOLDER / f"{job_name}.{job_id}.log"

    def submit(self, job: Job, runs: Sequence[Planned]) -> str:
        """Write the script beside the configs and hand it to sbatch; return the job's id."""
        script = self.out / FOLDER / f"{job.name}.sh"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(self.render(job, runs), encoding="utf-8")
        done = ask(["sbatch", "--parsable", str(script)])
        said = done.stdout.strip().split(";")[0]  # ID, or ID;CLUSTER
        if done.returncode or not said.isdigit():
            raise RunError(
                f"sbatch refused {script}: {done.stderr.strip() or done.stdout.strip()}. Change the launch section or "
                "options and type the command again; jobs that were accepted are kept."
            )
        return said

    def poll(self, records: Sequence[JobRecord]) -> dict[str, Status]:
        """Return each job's status in one call of squeue. A job that squeue does not list has ended."""
        done = ask(["squeue", "--noheader", "--states=all", "--user", _user(), f"--format={FIELDS}"])
        if done.returncode:
            raise RunError(f"squeue failed: {done.stderr.strip()}. Jobs go on; the same command follows them again.")
        lines = {
            line.split("|")[0]: line.strip().split("|") for line in done.stdout.splitlines() if line.count("|") == 3
        }
        return {record.name: self._status(record, lines.get(record.id or "")) for record in records}

    def _status(self, record: JobRecord, fields: list[str] | None) -> Status:
        num_restarts = max(0, self._read_log(record).count("worldsize: job ") - 1)
        if fields is None:
            return Status("ended", record.nodes, "squeue does not list it any more", num_restarts)
        _, state, nodes, reason = fields
        if state in WAITING:
            return Status("waiting", None, reason, num_restarts)
        if state in RUNNING:
            return Status("running", nodes or None, None, num_restarts)
        return Status("ended", nodes or record.nodes, state, num_restarts)

    def collect(self, record: JobRecord) -> None:
        """Do nothing: the runs were written where the study lies."""

    def explain(self, record: JobRecord) -> str:
        """Name the job, its end, the node and rank that failed first, and the log's last lines."""
        log = self._log(record.name, record.id or "")
        text = self._read_log(record)
        culprit = failing_rank(text)
        where = f"node {culprit[0]} failed ({culprit[1]})" if culprit else f"on {record.nodes or 'no node'}"
        tail = "\n".join(f"    {line}" for line in text.splitlines()[-LOG_LINES:])
        end = f"{record.reason}" if record.reason else "ended"
        return f"Slurm job {record.id} ({end}): {where}. Log: {log}" + (f", which ends with\n{tail}" if tail else "")

    def _read_log(self, record: JobRecord) -> str:
        log = self._log(record.name, record.id or "")
        return log.read_text("utf-8", errors="replace") if log.is_file() else ""


def python_of(launch: LaunchConfig) -> str:
    """Return the words that start Python in a job: its own interpreter, or the container's."""
    if launch.container:
        options = f" {launch.container_options}" if launch.container_options else ""
        return f"apptainer exec{options} {shlex.quote(launch.container)} {launch.python or 'python'}"
    return launch.python or shlex.quote(sys.executable)


def failing_rank(log: str) -> tuple[str, str] | None:
    """Return (node, what happened) of the rank that failed first, or None where the log names none.

    srun says 'error: NODE: task 3: Exited with exit code 1' for each rank as it ends. Ranks that only lost a peer say
    so in their own message, and are not the first cause while another is there.
    """
    last_start = log.rsplit("worldsize: job ", 1)[-1]
    lost = re.search(r"Node failure on (\S+)", last_start)
    if lost:
        return lost[1], "Slurm lost the node"
    ends = re.findall(r"srun: error: ([\w.-]+): tasks? ([\d,-]+): (.+)", last_start)
    messages = dict(re.findall(r"^\s*(\d+): error: (.+)$", last_start, re.MULTILINE))
    own = [end for end in ends if not is_echo(messages.get(end[1], "")) and end[2] not in ("Terminated", "Killed")]
    killed = [end for end in ends if end[2] == "Killed"]
    for node, task, what in [*own, *killed, *ends]:
        said = f": {messages[task]}" if task in messages else ""
        return node, f"rank {task}: {what}{said}"
    return None


def _user() -> str:
    import getpass

    return getpass.getuser()
