"""A private Slurm of two nodes on this machine: one slurmctld, two slurmd, one munged, all in one temporary folder.

Nothing of the machine's own Slurm is touched: own configuration, key, ports and spool. It needs root (slurmd starts
jobs as their users) and Debian's packages `slurm-wlm` and `munge`. `python -m tests.slurm.cluster` starts it, prints
what to export, and stops it when its standard input ends (Ctrl-D, Ctrl-C).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "sinfo", "srun")
STARTS_WITHIN_S = 30.0
CPUS_PER_NODE = 2

CONF = """\
ClusterName=worldsize-{name}
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,defer
SchedulerType=sched/builtin
ReturnToService=2
MailProg=/bin/true
KillWait=5
InactiveLimit=0
MessageTimeout=30
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
SlurmctldParameters=preempt_send_user_signal
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO GraceTime=30 PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10
"""


def why_not() -> str | None:
    """Return why no cluster can run here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "slurmd needs root"


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Run the cluster; yield the environment in which Slurm's commands speak to it."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="worldsize-slurm-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        environment = _configure(folder)
        stack.callback(_print_logs_if_failing, folder)
        munged = ["munged", "--foreground", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket",
                  f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", "--force",
                  f"--seed-file={folder}/munge.seed"]  # fmt: skip
        stack.enter_context(_daemon(munged, environment, folder))
        stack.enter_context(_daemon(["slurmctld", "-D", "-c", "-f", f"{folder}/slurm.conf"], environment, folder))
        for node in NODES:
            daemon = ["slurmd", "-D", "-N", node, "-f", f"{folder}/slurm.conf"]
            stack.enter_context(_daemon(daemon, environment, folder))
        _await_idle(environment, folder)
        stack.callback(_cancel_all, environment)
        yield environment


def _configure(folder: Path) -> dict[str, str]:
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    conf = CONF.format(
        name=secrets.token_hex(4), folder=folder, ports=_free_ports(3), user=getpass.getuser(), cpus=CPUS_PER_NODE
    )
    (folder / "slurm.conf").write_text(conf)
    return {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def _daemon(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_idle(environment: dict[str, str], folder: Path) -> None:
    until_s = time.monotonic() + STARTS_WITHIN_S
    said = ""
    while time.monotonic() < until_s:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                ["sinfo", "--noheader", "--partition=main", "--Node", "--format=%T"],
                env=environment, capture_output=True, text=True, timeout=10, check=False,
            )  # fmt: skip
            said = done.stdout + done.stderr
            if done.stdout.split() == ["idle"] * len(NODES):
                return
        time.sleep(0.3)
    logs = "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-2000:]}" for log in folder.glob("*.[lo][ou][gt]"))
    raise RuntimeError(f"the private Slurm did not start within {STARTS_WITHIN_S:g} s: {said}\n{logs}")


def _print_logs_if_failing(folder: Path) -> None:
    if os.environ.get("WORLDSIZE_SLURM_LOGS"):
        shutil.copytree(folder, os.environ["WORLDSIZE_SLURM_LOGS"], dirs_exist_ok=True, ignore=_only_logs)


def _only_logs(_: str, names: list[str]) -> set[str]:
    return {name for name in names if not name.endswith((".log", ".out", ".conf"))}


def _cancel_all(environment: dict[str, str]) -> None:
    """End every job, and wait until its processes are gone: a job's step daemon outlives slurmd."""
    subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, capture_output=True, check=False)
    subprocess.run(["scancel", "--full", "--signal=KILL", "--user", getpass.getuser()], env=environment,
                   capture_output=True, check=False)  # fmt: skip
    until_s = time.monotonic() + 15
    while time.monotonic() < until_s:
        left = subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True, check=False)
        if not left.stdout.strip():
            return
        time.sleep(0.3)


if __name__ == "__main__":
    with cluster() as running:
        print(f"export SLURM_CONF={running['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
