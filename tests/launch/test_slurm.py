"""Scripts as rendered, and what is read from fake sbatch, squeue and logs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.launch.fakes import Programs
from tests.launch.test_jobs import cells
from worldsize.config.load import load
from worldsize.errors import RunError
from worldsize.launch.jobs import Job, jobs_by_world_size, shapes_of
from worldsize.launch.records import JobRecord
from worldsize.launch.slurm import Slurm, failing_rank

JOB: Job = jobs_by_world_size(cells([8], [16]), shapes_of([2], [4]), repeats=2)[0]
RECORD = JobRecord(name="n8", num_nodes=2, ranks_per_node=4, runs=["runs/n8-b16/r1"], id="7", state="running")


def slurm(out: Path, *overrides: str, has_gpus: bool = True) -> Slurm:
    return Slurm(out, load(None, overrides).config, has_gpus=has_gpus)


def header(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_the_header_asks_for_what_was_typed(tmp_path: Path) -> None:
    script = slurm(
        tmp_path / "study", 'launch.time="1:00:00"', "launch.partition=gpu", "launch.account=lab",
        "launch.constraint=a100&ib", "launch.sbatch_options=--mem=0", "launch.warning_s=60", "launch.cpus_per_rank=8",
    ).render(JOB, JOB.runs)  # fmt: skip
    assert header(script) == [
        "--job-name=worldsize-study-n8",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--cpus-per-task=8",
        "--gpus-per-node=4",
        f'--output="{tmp_path}/study/jobs/n8.%j.log"',
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@60",
        "--exclusive",
        "--time=1:00:00",
        "--partition=gpu",
        "--account=lab",
        '--constraint="a100&ib"',
        "--mem=0",
    ]


def test_what_is_not_given_is_not_asked_for(tmp_path: Path) -> None:
    script = slurm(tmp_path, "launch.exclusive=false", has_gpus=False).render(JOB, JOB.runs)
    assert [line.split("=")[0] for line in header(script)] == [
        "--job-name", "--nodes", "--ntasks-per-node", "--cpus-per-task", "--output", "--open-mode", "--requeue",
        "--signal",
    ]  # fmt: skip
    assert "module load" not in script


def test_the_script_is_bash_and_runs_every_run_in_order(tmp_path: Path) -> None:
    out = tmp_path / "it's a study"
    script = slurm(out, "launch.modules=cuda/12.4", "launch.prologue='export NCCL_DEBUG=WARN'").render(JOB, JOB.runs)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert script.index("module load cuda/12.4") < script.index("export NCCL_DEBUG=WARN") < script.index("srun")
    runs = [line for line in script.splitlines() if line.startswith("train ")]
    quoted = f"'{tmp_path}/it'\"'\"'s a study/"
    assert runs == [f"train {quoted}jobs/n8-b16.yaml' {quoted}runs/n8-b16/r{r}'" for r in (1, 2)]


def test_a_container_runs_every_rank(tmp_path: Path) -> None:
    script = slurm(tmp_path, "launch.container=/images/torch.sif", "launch.container_options=--nv").render(
        JOB, JOB.runs
    )
    assert "rank apptainer exec --nv /images/torch.sif python -m worldsize train" in script


def test_the_script_carries_on_after_a_failed_run_and_ends_with_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path / "bin", monkeypatch)
    programs.answer("scontrol", "NodeAddr=10.0.0.1 NodeHostName=gpu1\n")
    programs.answer("srun", script='[[ "$*" != */r1\\ * ]] || exit 3; echo at $MASTER_ADDR:$WORLD_SIZE')
    script = slurm(tmp_path, has_gpus=False).render(JOB, JOB.runs)
    environment = {"PATH": f"{programs.folder}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "gpu[1-2]", "SLURM_NTASKS": "8",
                   "SLURM_JOB_ID": "7"}  # fmt: skip
    done = subprocess.run(["bash"], input=script, text=True, env=environment, capture_output=True, check=False)
    assert done.returncode == 1, done
    assert "r1 ended with exit code 3" in done.stdout
    assert "at 10.0.0.1:8" in done.stdout
    assert len(programs.calls("srun")) == 2
    assert not [call for call in programs.calls("scontrol") if call.startswith("requeue")]


def test_a_warned_job_stops_after_its_run_and_asks_to_be_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path / "bin", monkeypatch)
    programs.answer("scontrol", "NodeAddr=localhost\n")
    programs.answer("srun", script="trap 'exit 1' USR1; kill -USR1 $PPID; for i in {1..600}; do sleep 0.1; done")
    script = slurm(tmp_path, "launch.max_requeues=2", has_gpus=False).render(JOB, JOB.runs)
    for restarts, requeues in (("1", 1), ("2", 0)):
        programs.log.unlink(missing_ok=True)
        environment = {"PATH": f"{programs.folder}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "n", "SLURM_NTASKS": "8",
                       "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts}  # fmt: skip
        subprocess.run(["bash", "-c", script], env=environment, capture_output=True, timeout=60, check=False)
        assert len(programs.calls("srun")) == 1
        assert programs.calls("scontrol").count("requeue 7") == requeues


def test_submitting_writes_the_script_and_returns_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(tmp_path / "bin", monkeypatch)
    programs.answer("sbatch", "4711;cluster\n")
    assert slurm(tmp_path).submit(JOB, JOB.runs) == "4711"
    assert programs.calls("sbatch") == [f"--parsable {tmp_path}/jobs/n8.sh"]
    assert (tmp_path / "jobs/n8.sh").read_text() == slurm(tmp_path).render(JOB, JOB.runs)


def test_a_refusal_of_sbatch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(tmp_path / "bin", monkeypatch)
    programs.answer("sbatch", code=1, script="echo 'sbatch: error: invalid partition specified: gpux' >&2")
    with pytest.raises(RunError, match="invalid partition specified: gpux"):
        slurm(tmp_path).submit(JOB, JOB.runs)


@pytest.mark.parametrize(
    ("line", "phase", "nodes", "reason"),
    [
        ("7|PENDING||Resources", "waiting", None, "Resources"),
        ("7|REQUEUED||None", "waiting", None, "None"),
        ("7|RUNNING|gpu[1-2]|None", "running", "gpu[1-2]", None),
        ("7|COMPLETING|gpu[1-2]|None", "running", "gpu[1-2]", None),
        ("7|FAILED|gpu[1-2]|NonZeroExitCode", "ended", "gpu[1-2]", "FAILED"),
        ("7|NODE_FAIL|gpu1|None", "ended", "gpu1", "NODE_FAIL"),
        ("70|RUNNING|gpu9|None", "ended", None, "squeue does not list it any more"),
    ],
)
def test_states_of_the_queue(
    line: str, phase: str, nodes: str | None, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Programs(tmp_path / "bin", monkeypatch).answer("squeue", f"3|RUNNING|x|None\n{line}\n")
    status = slurm(tmp_path).poll([RECORD])["n8"]
    assert (status.phase, status.nodes, status.reason) == (phase, nodes, reason)


def test_starts_are_counted_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Programs(tmp_path / "bin", monkeypatch).answer("squeue", "7|RUNNING|x|None\n")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/n8.7.log").write_text("worldsize: job 7 on x, start 1\nworldsize: job 7 on x, start 2\n")
    assert slurm(tmp_path).poll([RECORD])["n8"].num_restarts == 1


def test_the_rank_that_failed_first_is_named_not_those_that_lost_it() -> None:
    log = (
        "worldsize: job 7 on gpu[1-2], start 1\n"
        "0: error: rank 0 failed at step 3 (training): RuntimeError: Connection closed by peer\n"
        "1: error: rank 1 failed at step 3 (training): out of GPU memory.\n"
        "srun: error: gpu1: task 0: Exited with exit code 1\n"
        "srun: error: gpu2: task 1: Exited with exit code 1\n"
    )
    assert failing_rank(log) == (
        "gpu2", "rank 1: Exited with exit code 1: rank 1 failed at step 3 (training): out of GPU memory.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("end", "node"),
    [
        ("srun: error: gpu1: task 0: Terminated\nsrun: error: gpu2: task 1: Killed\n", "gpu2"),
        ("srun: error: Node failure on gpu2\nsrun: error: gpu1: task 0: Terminated\n", "gpu2"),
        ("srun: error: gpu3.site.org: tasks 0-3: Exited with exit code 2\n", "gpu3.site.org"),
    ],
)
def test_failing_nodes(end: str, node: str) -> None:
    before = "worldsize: job 7 on x, start 1\nsrun: error: old: task 0: Killed\nworldsize: job 7 on x, start 2\n"
    found = failing_rank(before + end)
    assert found is not None
    assert found[0] == node


def test_a_log_without_srun_names_no_node() -> None:
    assert failing_rank("worldsize: job 7 on x, start 1\nmodule: command not found\n") is None


def test_a_failed_job_is_told_with_its_logs_end(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/n8.7.log").write_text("\n".join(f"line {i}" for i in range(20)))
    why = slurm(tmp_path).explain(RECORD.model_copy(update={"reason": "TIMEOUT", "nodes": "gpu[1-2]"}))
    assert why.startswith("Slurm job 7 (TIMEOUT): on gpu[1-2].")
    assert why.endswith("line 14\n    line 15\n    line 16\n    line 17\n    line 18\n    line 19")
