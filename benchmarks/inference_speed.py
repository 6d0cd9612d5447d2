"""Inference on one core against peers, in turns: `python -m benchmarks.inference_speed --out FOLDER [--json]`.

Every contender lives in its own process with the same random GPT-2, pinned to the same core; a round gives each its
turn at each task, so that whatever else the machine does hits all alike. Compared are ratios within a round; printed
are their medians with 95 % bootstrap intervals. A peer that is not installed is named, with what installs it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inference_contender import MEMORY, NEEDED, OURS, PEERS, PIP
from benchmarks.inference_files import SHAPES, write_folder
from worldsize.measure.statistics import measured

TASKS: dict[str, tuple[str, int, int]] = {
    "decode, batch 1": ("decode", 1, 32),
    "decode, batch 16": ("decode", 16, 12),
    "prefill of 512": ("prefill", 1, 512),
}
"""Title → task, rows, and tokens: steps of decoding, or the prompt's length."""
DECODE_1, DECODE_16, PREFILL = TASKS
METHODS = "fp32,bf16 alone compiled,int8 alone,int8 alone compiled,int8,int8 compiled,int4 compiled"
TRANSFORMERS, LLAMA, ONNX = "transformers fp32", "llama.cpp Q8_0", "ONNX Runtime int8"


@dataclass(frozen=True)
class Goal:
    """The best of some of our contenders has to reach `ratio` times a peer's speed at a task."""

    task: str
    peer: str
    ratio: float
    with_kernel: bool
    """Among the contenders with the compiled kernel, or among those of PyTorch alone."""


GOALS = (
    Goal(DECODE_1, LLAMA, 0.8, with_kernel=False),
    Goal(PREFILL, TRANSFORMERS, 2.5, with_kernel=False),
    Goal(DECODE_1, LLAMA, 1.3, with_kernel=True),
    Goal(DECODE_16, LLAMA, 2.3, with_kernel=True),
    Goal(DECODE_16, ONNX, 0.9, with_kernel=True),
)


class Contender:
    """The driver's side of one process."""

    def __init__(self, name: str, folder: Path, core: int, tasks: Sequence[tuple[str, int, int]], log: Path) -> None:
        self.name = name
        self._log_path = log
        self._log = log.open("w")
        given = json.dumps({"name": name, "folder": str(folder), "core": core, "tasks": list(tasks)})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.inference_contender", given],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def hear(self) -> dict[str, Any] | None:
        """Return its next message, or None when it ended instead."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                message: dict[str, Any] = json.loads(line)
                return message
        return None

    def run(self, task: tuple[str, int, int]) -> float:
        """Return the seconds of one task. Raises RuntimeError when the contender died of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        answer = self.hear()
        if answer is None:
            raise RuntimeError(f"{self.name} ended early:\n{self.last_words()}")
        return float(answer["seconds"])

    def last_words(self) -> str:
        return self._log_path.read_text()[-2000:]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def absent() -> dict[str, str]:
    """Return the peers that cannot run here, each with what installs it."""
    return {
        name: PIP[module]
        for name, (_, _, module) in PEERS.items()
        if not all(importlib.util.find_spec(needed) for needed in NEEDED[module])
    }


def compare(shape: str, names: Sequence[str], num_rounds: int, core: int, out: Path) -> dict[str, Any]:
    """Return one shape's figures: of every contender and task the seconds of each round, and what could not start."""
    failed: dict[str, str] = {}
    known: dict[str, dict[str, Any]] = {}
    contenders: list[Contender] = []
    with tempfile.TemporaryDirectory() as folder:
        write_folder(shape, Path(folder))
        try:
            for name in [MEMORY, *names]:
                log = out / f"{shape}-{name.replace(' ', '-')}.log"
                contender = Contender(name, Path(folder), core, list(TASKS.values()), log)
                ready = contender.hear()  # one after the other: opening a model takes memory
                if ready is None:
                    failed[name] = (contender.last_words().strip().splitlines() or ["ended without a word"])[-1]
                    contender.end()
                    continue
                contenders.append(contender)
                known[name] = ready
                print(f"  {shape}: {name} is ready", file=sys.stderr, flush=True)
            seconds = rounds_of(contenders, num_rounds)
        finally:
            for contender in contenders:
                contender.end()
    return figures(shape, seconds, known, failed)


def rounds_of(contenders: Sequence[Contender], num_rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return task → contender → seconds, a value a round; each round begins with another contender."""
    seconds: dict[str, dict[str, list[float]]] = {title: {c.name: [] for c in contenders} for title in TASKS}
    for index in range(num_rounds):
        shift = index % len(contenders)
        for title, task in TASKS.items():
            for contender in [*contenders[shift:], *contenders[:shift]]:
                seconds[title][contender.name].append(contender.run(task))
    return seconds


def figures(
    shape: str, seconds: dict[str, dict[str, list[float]]], known: dict[str, dict[str, Any]], failed: dict[str, str]
) -> dict[str, Any]:
    """Return speeds, their ratios to the reference peers, and bytes a second as a share of memory's in the round."""
    read_bytes = {name: facts["read_bytes"] for name, facts in known.items()}
    memory = {title: [read_bytes[MEMORY] / s for s in seconds[title][MEMORY]] for title in TASKS}
    rows = []
    for title, (task, num_rows, num_tokens) in TASKS.items():
        for name, own in seconds[title].items():
            if name == MEMORY:
                continue
            row: dict[str, Any] = {
                "task": title,
                "contender": name,
                "kernel": known[name]["kernel"],
                "tokens_per_s": measured([num_rows * num_tokens / s for s in own]).model_dump(),
                "times_peer": {
                    peer: measured([t / s for t, s in zip(seconds[title][peer], own, strict=True)]).model_dump()
                    for peer in (TRANSFORMERS, LLAMA, ONNX)
                    if peer in seconds[title]
                },
            }
            if task == "decode":
                speeds = [read_bytes[name] * num_tokens / s for s in own]
                row["read_bytes_per_s"] = measured(speeds).model_dump()
                shares = [speed / limit for speed, limit in zip(speeds, memory[title], strict=True)]
                row["share_of_bandwidth"] = measured(shares).model_dump()
            rows.append(row)
    best_bytes_per_s = max(limit for limits in memory.values() for limit in limits)
    return {
        "shape": shape,
        "read_bytes_per_step": read_bytes,
        "best_bandwidth_bytes_per_s": best_bytes_per_s,
        "rows": rows,
        "goals": [verdict for goal in GOALS if (verdict := judge(goal, rows))],
        "failed": failed,
    }


def judge(goal: Goal, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return whether the best of ours reaches a goal, or None where one of the two sides is absent.

    Four bits against a peer's eight would be no comparison, so int4 does not count.
    """
    ours = [
        row
        for row in rows
        if row["task"] == goal.task
        and row["contender"].startswith(OURS)
        and "int4" not in row["contender"]
        and row["kernel"] == goal.with_kernel
        and goal.peer in row["times_peer"]
    ]
    if not ours:
        return None
    best = max(ours, key=lambda row: row["times_peer"][goal.peer]["median"])
    ratio = best["times_peer"][goal.peer]
    return {
        "task": goal.task,
        "peer": goal.peer,
        "goal": goal.ratio,
        "with_kernel": goal.with_kernel,
        "best": best["contender"],
        "ratio": ratio,
        "met": ratio["median"] >= goal.ratio,
    }


def text(result: dict[str, Any]) -> str:
    """Return one shape's comparison for people."""
    lines = [f"{result['shape']}: memory reads {result['best_bandwidth_bytes_per_s'] / 1e9:.1f} GB/s at best"]
    for title in TASKS:
        lines.append(f"  {title:26}{'tokens/s':>10}   × transformers   × llama.cpp Q8_0     GB/s, of memory in turns")
        for row in result["rows"]:
            if row["task"] == title:
                lines.append(_row_text(row))
    for goal in result["goals"]:
        kind = "with the kernel" if goal["with_kernel"] else "PyTorch alone"
        lines.append(
            f"  {goal['task']}, {kind}: {goal['best']} {goal['ratio']['median']:.2f} × {goal['peer']} "
            f"[{goal['ratio']['low']:.2f}, {goal['ratio']['high']:.2f}]   goal {goal['goal']:.1f}: "
            f"{'met' if goal['met'] else 'NOT MET'}"
        )
    lines += [f"  {name} did not start: {why}" for name, why in result["failed"].items()]
    return "\n".join(lines)


def _row_text(row: dict[str, Any]) -> str:
    def times(peer: str) -> str:
        ratio = row["times_peer"].get(peer)
        return f"{ratio['median']:.2f}" if ratio else "–"

    line = f"    {row['contender']:24}{row['tokens_per_s']['median']:10,.1f}{times(TRANSFORMERS):>17}{times(LLAMA):>19}"
    if "share_of_bandwidth" in row:
        speed, share = row["read_bytes_per_s"]["median"], row["share_of_bandwidth"]["median"]
        line += f"{speed / 1e9:13.1f}, {share:.0%}"
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--rounds", type=int, default=7, help="turns a contender and task")
    parser.add_argument("--shapes", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--methods", default=METHODS, help="ours; 'alone': without our kernels; 'compiled': by graphs")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument("--json", action="store_true", help="print the JSON twin instead of tables")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    core = max(os.sched_getaffinity(0))
    missing = absent()
    shown = sys.stderr if given.json else sys.stdout
    peers = [name for name in given.peers.split(",") if name]
    for name in peers:
        if name in missing:
            print(f"absent: {name}. To have it: {missing[name]}", file=shown, flush=True)
    names = [OURS + method for method in given.methods.split(",") if method]
    names += [name for name in peers if name not in missing]
    load_before = os.getloadavg()
    results = []
    for shape in given.shapes.split(","):
        results.append(compare(shape, names, given.rounds, core, given.out))
        print(text(results[-1]), file=shown, flush=True)
    twin = {
        "load_average": {"before": load_before, "after": os.getloadavg()}, "absent": missing, "results": results,
    }  # fmt: skip
    (given.out / "inference_speed.json").write_text(json.dumps(twin, indent=1) + "\n")
    if given.json:
        print(json.dumps(twin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
