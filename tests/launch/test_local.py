"""Runs on real ranks of this machine: what they leave on disk, and how they end when something goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.warm.client import SOCKET
from tests.warm.start import Warm, ranks_forked
from worldsize.config.load import load
from worldsize.errors import RunError, UserError
from worldsize.launch import local
from worldsize.launch.local import launch
from worldsize.launch.progress import Progress
from worldsize.records import RunResult
from worldsize.study.records import CellResult
from worldsize.study.results import from_runs

pytestmark = pytest.mark.slow

FAULTY_WORKER = Path(__file__).parents[1] / "faulty_worker.py"
ENDS_WITHIN_S = 10.0
"""From a fault on one rank to the end of the last process."""
SMALL = [
    "model.num_layers=2", "model.d_model=64", "model.context_length=32", "train.steps=20", "train.global_batch=8",
    "train.eval_samples=8", "train.checksum_every_steps=10", "measure.warmup_steps=2", "measure.window_steps=5",
    "measure.probe_rounds=2", "measure.trace_steps=1", "data.max_bytes=200000",
]  # fmt: skip


def small_run(out: Path, *overrides: str, world_size: int = 2) -> RunResult:
    launch(load(None, [*SMALL, *overrides], None), world_size=world_size, out=out, command=["test"])
    return RunResult.model_validate_json((out / "result.json").read_text())


def with_fault(monkeypatch: pytest.MonkeyPatch, fault: str, warm: Warm | None = None) -> None:
    """Give ranks the fault; as forks of `warm` only where the fault lets them live."""
    if warm:
        monkeypatch.setattr(local, "WORKER", [*warm.command("tests.faulty_worker"), fault])
        monkeypatch.setenv(SOCKET, warm.socket)
        return
    monkeypatch.setattr(local, "WORKER", [sys.executable, str(FAULTY_WORKER), fault])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTY_WORKER.parents[1]), os.environ.get("PYTHONPATH", "")]))


def no_rank_is_left() -> bool:
    """Return whether this process has no children but idle shared ranks of other tests."""
    children = psutil.Process().children(recursive=True)
    return not any(
        "worldsize.train.worker" in " ".join(c.cmdline()) or "faulty" in " ".join(c.cmdline()) for c in children
    )


def test_two_ranks_do_the_same_work_as_one(tmp_path: Path) -> None:
    one, two = small_run(tmp_path / "one", world_size=1), small_run(tmp_path / "two", world_size=2)
    assert one.samples_digest == one.samples_digest_expected == two.samples_digest == two.samples_digest_expected
    assert one.num_samples == two.num_samples == 20 * 8
    assert one.num_tokens == two.num_tokens == 20 * 8 * 32
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    assert [e.loss for e in two.evaluations] == pytest.approx([e.loss for e in one.evaluations], rel=1e-4)
    assert [e.num_tokens for e in two.evaluations] == [e.num_tokens for e in one.evaluations]
    assert two.checksums[0].by_rank == one.checksums[0].by_rank * 2
    assert all(len(set(checksum.by_rank)) == 1 for checksum in two.checksums)
    assert two.communication_bytes.observed == two.communication_bytes.predicted
    assert one.communication_bytes.observed == one.communication_bytes.predicted == []
    assert one.phases_s["exposed_communication_s"] == 0.0
    assert one.exposed_communication is None
    for result in (one, two):
        assert sum(result.phases_s.values()) == pytest.approx(result.step_time_s.median, rel=1e-9)
        assert len(result.step_time_s.samples) == 18
        assert result.tokens_per_s == pytest.approx(8 * 32 / result.step_time_s.median)


@pytest.mark.usefixtures("warm_ranks_here")
def test_what_lies_on_disk(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        ".lock", "run.json", "result.json", "steps.rank0.jsonl", "steps.rank1.jsonl",
    }  # fmt: skip
    for rank in range(2):
        rows = [json.loads(line) for line in (tmp_path / f"run/steps.rank{rank}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(20))
        assert [row["warmup"] for row in rows] == [True] * 2 + [False] * 18
        for row in rows:
            assert sum(row["phases_s"].values()) == pytest.approx(row["wall_s"], rel=1e-9)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["origins"]["train.steps"]["source"] == "override"
    assert record["origins"]["parallel.dp"] == {"value": 2, "source": "derived"}
    assert record["environment"]["pinned_cores"] == [[0], [1]] or os.cpu_count() != 2


@pytest.mark.usefixtures("warm_ranks_here")
def test_a_finished_run_is_skipped_and_another_config_refused(tmp_path: Path) -> None:
    small_run(tmp_path, world_size=1)
    before = (tmp_path / "result.json").stat().st_mtime_ns
    again = launch(load(None, SMALL, None), world_size=1, out=tmp_path, command=["test"])
    assert again is False
    assert (tmp_path / "result.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"train\.seed: 0 → 1.*never overwritten"):
        launch(load(None, [*SMALL, "train.seed=1"], None), world_size=1, out=tmp_path, command=["test"])


def test_two_writers_in_one_folder_are_refused(tmp_path: Path) -> None:
    with local.locked(tmp_path, "run"), pytest.raises(UserError, match="being written by another run"):
        small_run(tmp_path, world_size=1)


@pytest.mark.parametrize(
    ("fault", "strategy", "message"),
    [
        ("raise_error", "ddp", r"rank 1 failed at step 7 \(training\): RuntimeError: the cat sat on the keyboard"),
        ("raise_error", "pipeline", r"rank 1 failed at step 7 \(training\): RuntimeError: the cat sat on the keyboard"),
        ("kill", "ddp", r"rank 1 was ended by SIGKILL after step \d+.*Run the same command again"),
        ("nan", "ddp", r"the loss is nan at step 7 on rank (1|0, 1)\. Lower optimizer\.learning_rate \(now 0\.001\)"),
    ],
)
def test_a_fault_on_one_rank_ends_the_run_in_seconds_with_one_message(
    fault: str, strategy: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from the fault, since starting is most of such a run; again where other work held the machine up."""
    with_fault(monkeypatch, fault)
    monkeypatch.setenv("FAULT_MOMENT", str(tmp_path / "moment"))
    took_s: list[float] = []
    while not took_s or (took_s[-1] >= ENDS_WITHIN_S and len(took_s) < 3):
        out = tmp_path / f"run{len(took_s)}"
        with pytest.raises(RunError, match=message):
            small_run(out, f"parallel.strategy={strategy}")
        took_s.append(time.monotonic() - float((tmp_path / "moment").read_text()))
        assert not (out / "result.json").exists()
        assert no_rank_is_left()
    assert took_s[-1] < ENDS_WITHIN_S, took_s


@pytest.mark.parametrize("strategy", ["ddp", "pipeline"])
def test_a_rank_that_hangs_is_noticed_after_the_timeout(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher then listens to the other ranks for a while: here there is none that could say anything."""
    with_fault(monkeypatch, "hang")
    monkeypatch.setattr(local, "TIMED_OUT_ECHO_S", 1.0)
    with pytest.raises(RunError, match=r"another rank did not answer within device\.timeout_s=5 s"):
        small_run(tmp_path, "device.timeout_s=5", f"parallel.strategy={strategy}")
    assert no_rank_is_left()


def test_after_a_failure_the_same_command_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        with_fault(patched, "raise_error")
        with pytest.raises(RunError):
            small_run(tmp_path)
    assert (tmp_path / "error.rank1.txt").read_text().count("the cat sat on the keyboard") >= 1
    assert small_run(tmp_path).num_steps == 20
    assert not list(tmp_path.glob("error.*"))


@pytest.fixture(scope="module")
def one_device(warm: Warm | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound run on one device, to compare faulty ones with."""
    out = tmp_path_factory.mktemp("sound") / "run"
    with ranks_forked(warm):
        small_run(out, *STEADY, world_size=1)
    return out


STEADY = ["train.steps=40", "model.d_model=128"]
"""Enough work for a rank's compute to be told from noise."""


def judged(one_device: Path, two_devices: Path) -> CellResult:
    """Return what a study says of the run on two devices."""
    return next(cell for cell in from_runs([one_device, two_devices]).cells if cell.world_size == 2)


@pytest.mark.usefixtures("warm_ranks_here")
def test_a_sound_run_gets_its_speedup(one_device: Path, tmp_path: Path) -> None:
    small_run(tmp_path, *STEADY)
    cell = judged(one_device, tmp_path)
    assert [problem for problem in cell.problems if problem.severity == "blocks"] == []
    assert cell.speedup is not None


def test_every_rank_on_all_data_is_named(
    one_device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Warm | None
) -> None:
    with_fault(monkeypatch, "repeat_data", warm)
    result = small_run(tmp_path, *STEADY)
    assert result.num_samples == 2 * 40 * 8
    cell = judged(one_device, tmp_path)
    assert "every-rank-all-data" in {problem.rule for problem in cell.problems}
    assert cell.speedup is None


def test_ranks_with_their_own_seeds_are_named(
    one_device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Warm | None
) -> None:
    with_fault(monkeypatch, "own_seeds", warm)
    result = small_run(tmp_path, *STEADY)
    assert len(set(result.checksums[0].by_rank)) == 2
    cell = judged(one_device, tmp_path)
    assert {"ranks-start-apart", "samples-not-prescribed"} <= {problem.rule for problem in cell.problems}
    assert cell.speedup is None


def test_a_slowed_rank_is_named(
    one_device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Warm | None
) -> None:
    """Five tries: another program on rank 0's core makes both ranks slow, which is what the tool then says."""
    with_fault(monkeypatch, "slow_rank", warm)
    for attempt in range(5):
        result = small_run(tmp_path / str(attempt), *STEADY)
        problems = judged(one_device, tmp_path / str(attempt)).problems
        slow = [p.message for p in problems if p.rule == "slow-rank" and p.message.startswith("rank 1 ")]
        if slow:
            break
    assert len(slow) == 1
    waiting_s = [rank.phases_s["exposed_communication_s"] for rank in result.ranks]
    assert waiting_s[0] > waiting_s[1]


def test_ctrl_c_ends_every_rank_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worldsize", "train", *SMALL, "train.steps=100000", "--nproc", "2"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "run")], stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "run" / "run.json").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    ranks = psutil.Process(process.pid).children(recursive=True)
    assert len(ranks) >= 2
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert not [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE]
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_killed_launcher_takes_its_ranks_along(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worldsize", "train", *SMALL, "train.steps=100000", "--nproc", "2"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "run")], stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "run" / "run.json").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    ranks = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Path:
    """A file system with room for a few hundred kilobytes."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", mount]).returncode:
        pytest.skip("needs the right to mount a small file system")
    return mount


def test_a_full_disk_is_said_and_leaves_no_result(tiny_disk: Path) -> None:
    try:
        with pytest.raises(RunError, match=r"No space left on device.*Free some space"):
            small_run(tiny_disk / "run", world_size=1)
        assert not (tiny_disk / "run" / "result.json").exists()
    finally:
        subprocess.run(["umount", tiny_disk], check=True)


@pytest.mark.usefixtures("warm_ranks_here")
def test_progress_is_told_in_order(tmp_path: Path) -> None:
    said: list[Progress] = []
    launch(load(None, SMALL, None), world_size=1, out=tmp_path, command=["test"], on_progress=said.append)
    stages = list(dict.fromkeys(progress.stage for progress in said))
    assert [s for s in stages if s != "preparing"] == ["starting", "training", "evaluating", "probing", "tracing"]
    last = [p for p in said if p.stage == "training"][-1]
    assert (last.step, last.num_steps) == (20, 20)
    assert last.loss == pytest.approx(json.loads((tmp_path / "result.json").read_text())["losses"][-1])


def test_torchrun_gives_the_same_run(tmp_path: Path) -> None:
    arguments = ["-m", "worldsize", "train", *SMALL, "--out", str(tmp_path / "torchrun")]
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    theirs = RunResult.model_validate_json((tmp_path / "torchrun" / "result.json").read_text())
    ours = small_run(tmp_path / "ours")
    assert theirs.losses == ours.losses
    assert theirs.samples_digest == ours.samples_digest
    assert theirs.checksums == ours.checksums
