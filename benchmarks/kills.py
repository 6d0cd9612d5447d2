"""Kills ranks with SIGKILL under torchrun, at random moments and during saves, and asks what is left of the run.

python -m benchmarks.kills --kills 30 --out out/kills

One run trains undisturbed. Then the same run trains again while one of its ranks is killed again and again; torchrun
starts all ranks anew (`--max-restarts`), and they go on from the newest checkpoint. When a run finishes before all
kills are done, another begins. Asked of each: did it finish; was any checkpoint on disk ever damaged; are losses,
samples and checksums those of the undisturbed run; are the final weights and moments the same, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from safetensors import safe_open

from worldsize.checkpoint_folder import CHECKPOINTS, SAVING, checkpoints_in, damage
from worldsize.records import RunResult

SETTINGS = [
    "model.num_layers=1", "model.d_model=32", "model.num_heads=2", "model.context_length=32", "model.dropout=0.1",
    "train.global_batch=8", "train.eval_samples=8", "train.eval_every_steps=20", "train.checksum_every_steps=100",
    "data.max_bytes=200000", "measure.matmul=false", "measure.probe_rounds=0", "measure.trace_steps=0",
    "device.kind=cpu", "device.pin=false", "device.timeout_s=60", "checkpoint.every_steps=5",
]  # fmt: skip
LOOK_EVERY_S = 0.002
LONGEST_S = 300.0
"""A run in which nothing happens for so long is lost."""


@dataclass
class Kill:
    """One kill and what was on disk just after it."""

    run: int
    rank: int
    aimed_at: str
    """'starting', before its first save; 'training', between saves or in one; 'a save', a few milliseconds into it."""
    after_s: float
    """Since the ranks of this life were started."""
    newest_step: int
    """Of the checkpoints on disk; 0 = none yet."""
    cut_a_save: bool
    """A half-written folder was left."""
    damaged: list[str]


@dataclass
class Outcome:
    """One run, from its first life to its last."""

    finished: bool
    num_lives: int
    resumed_after: list[int] = field(default_factory=list)
    same_losses: bool = False
    same_samples: bool = False
    same_checksums: bool = False
    same_bits: bool = False
    wall_s: float = 0.0

    @property
    def sound(self) -> bool:
        return self.finished and self.same_losses and self.same_samples and self.same_checksums and self.same_bits


def torchrun(out: Path, num_steps: int, max_restarts: int) -> subprocess.Popen[bytes]:
    """Start a run on two ranks under torchrun."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", str(max_restarts), "-m", "worldsize", "train", *SETTINGS, f"train.steps={num_steps}",
        "--out", str(out),
    ]  # fmt: skip
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def ranks_of(agent: subprocess.Popen[bytes]) -> dict[int, psutil.Process]:
    """Return rank → process of those that torchrun runs now."""
    found = {}
    try:
        for child in psutil.Process(agent.pid).children():
            if child.status() != psutil.STATUS_ZOMBIE and "RANK" in (environment := child.environ()):
                found[int(environment["RANK"])] = child
    except psutil.Error:
        pass  # one that has just ended
    return found


def wait_for_life(agent: subprocess.Popen[bytes], before: set[int]) -> dict[int, psutil.Process]:
    """Return the two ranks of the next life, or none when torchrun ended first."""
    until_s = time.monotonic() + LONGEST_S
    while agent.poll() is None and time.monotonic() < until_s:
        ranks = ranks_of(agent)
        if len(ranks) == 2 and not before & {process.pid for process in ranks.values()}:
            return ranks
        time.sleep(0.02)
    return {}


def being_saved(out: Path, since: float) -> set[Path]:
    """Return the half-written folders that this life began, `since` being when it did (time.time)."""
    try:
        return {folder for folder in (out / CHECKPOINTS).glob(f"{SAVING}*") if folder.stat().st_mtime >= since}
    except FileNotFoundError:  # renamed or removed between the two looks
        return set()


def wait_for_the_moment(
    agent: subprocess.Popen[bytes], out: Path, aimed_at: str, since: float, chance: random.Random
) -> bool:
    """Wait until it is time to kill; False when the run ended first. `since` is when the life began (time.time)."""
    num_saves = {"starting": 0, "training": 1, "a save": chance.randint(1, 10)}[aimed_at]
    delay_s = {"starting": 10.0, "training": 2.0, "a save": 0.02}[aimed_at] * chance.random()
    until_s, seen = time.monotonic() + LONGEST_S, set[Path]()
    while time.monotonic() < until_s:
        if agent.poll() is not None or (out / "result.json").exists():
            return False
        seen |= being_saved(out, since)
        if len(seen) >= num_saves:
            until_s, num_saves = min(until_s, time.monotonic() + delay_s), sys.maxsize
        time.sleep(LOOK_EVERY_S)
    return num_saves == sys.maxsize


def damaged_checkpoints(out: Path) -> list[str]:
    """Return what is wrong with the checkpoints on disk, but for those that are removed meanwhile."""
    found = [(checkpoint.path, damage(checkpoint.path)) for checkpoint in checkpoints_in(out)]
    return [f"{path.name}: {trouble}" for path, trouble in found if trouble and path.exists()]


def killed_run(index: int, out: Path, num_steps: int, kills: list[Kill], left: int, chance: random.Random) -> Outcome:
    """Run once, killing a rank up to `left` times; the kills are added to `kills`."""
    began_s = time.monotonic()
    agent = torchrun(out, num_steps, max_restarts=left + 1)
    lives, before = 0, set[int]()
    try:
        while ranks := wait_for_life(agent, before):
            lives += 1
            since = time.time()
            before = {process.pid for process in ranks.values()}
            if left == 0:
                break
            aimed_at = chance.choice(["starting", "training", "training", "a save", "a save"])
            if not wait_for_the_moment(agent, out, aimed_at, since, chance):
                break
            rank = chance.choice([0, 1])
            ranks[rank].send_signal(signal.SIGKILL)
            after_s = time.time() - since
            newest = max((checkpoint.step for checkpoint in checkpoints_in(out)), default=0)
            kills.append(
                Kill(index, rank, aimed_at, after_s, newest, bool(being_saved(out, since)), damaged_checkpoints(out))
            )
            left -= 1
            print(f"kill {len(kills)}: rank {rank}, aimed at {aimed_at}, newest step {newest}", file=sys.stderr)
        agent.wait(LONGEST_S)
    finally:
        if agent.poll() is None:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
    finished = agent.returncode == 0 and (out / "result.json").exists()
    return Outcome(finished, lives, wall_s=time.monotonic() - began_s)


def compare(outcome: Outcome, out: Path, reference: Path) -> None:
    """Fill in what of a finished run equals the undisturbed one."""
    ours, theirs = (RunResult.model_validate_json((run / "result.json").read_text()) for run in (out, reference))
    outcome.resumed_after = ours.resumed_after
    outcome.same_losses = ours.losses == theirs.losses and ours.evaluations == theirs.evaluations
    outcome.same_samples = ours.samples_digest == theirs.samples_digest and ours.num_tokens == theirs.num_tokens
    outcome.same_checksums = ours.checksums == theirs.checksums
    outcome.same_bits = tensor_bytes(out) == tensor_bytes(reference)


def tensor_bytes(run: Path) -> dict[str, bytes]:
    """Return the bytes of every tensor of model, optimizer and random numbers in a run's last checkpoint."""
    tensors = {}
    for path in sorted(checkpoints_in(run)[0].path.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            names = [name for name in file.keys() if name.startswith(("model/", "optimizer/", "rng/"))]  # noqa: SIM118
            tensors |= {name: file.get_tensor(name).tobytes() for name in names}
    assert tensors
    return tensors


def run_kills(out: Path, num_kills: int, num_steps: int, seed: int) -> dict[str, object]:
    """Do it all; return the figures."""
    reference = out / "undisturbed"
    if torchrun(reference, num_steps, 0).wait(LONGEST_S) != 0:
        raise SystemExit(f"the undisturbed run failed: see {reference.with_suffix('.log')}")
    chance = random.Random(seed)
    kills: list[Kill] = []
    outcomes: list[Outcome] = []
    while len(kills) < num_kills:
        folder = out / f"killed{len(outcomes) + 1}"
        outcome = killed_run(len(outcomes) + 1, folder, num_steps, kills, num_kills - len(kills), chance)
        if outcome.finished:
            compare(outcome, folder, reference)
        outcomes.append(outcome)
    return {
        "num_kills": len(kills),
        "num_during_a_save": sum(kill.cut_a_save for kill in kills),
        "num_runs": len(outcomes),
        "runs_lost": sum(not outcome.finished for outcome in outcomes),
        "damaged_checkpoints": [trouble for kill in kills for trouble in kill.damaged],
        "runs_unlike_undisturbed": sum(not outcome.sound for outcome in outcomes),
        "num_steps": num_steps,
        "seed": seed,
        "runs": [asdict(outcome) for outcome in outcomes],
        "kills": [asdict(kill) for kill in kills],
    }


def table(figures: dict[str, object]) -> str:
    damaged = figures["damaged_checkpoints"]
    assert isinstance(damaged, list)
    lines = [
        f"{'kills':<28}{figures['num_kills']}",
        f"{'  that cut a save':<28}{figures['num_during_a_save']}",
        f"{'runs of ' + str(figures['num_steps']) + ' steps':<28}{figures['num_runs']}",
        f"{'  lost':<28}{figures['runs_lost']}",
        f"{'  unlike the undisturbed':<28}{figures['runs_unlike_undisturbed']}",
        f"{'damaged checkpoints':<28}{len(damaged)}",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("out/kills"))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    if given.out.exists() and any(given.out.iterdir()):
        parser.error(f"{given.out} is not empty: give another --out")
    figures = run_kills(given.out, given.kills, given.steps, given.seed)
    text = json.dumps(figures, indent=1)
    (given.out / "kills.json").write_text(text + "\n")
    print(text if given.json else table(figures))
    sound = not figures["runs_lost"] and not figures["runs_unlike_undisturbed"] and not figures["damaged_checkpoints"]
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
