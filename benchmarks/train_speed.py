"""Training speed on one core against peers, in turns: `python -m benchmarks --out FOLDER [--quick] [--json]`.

Each contender lives in its own process, all pinned to the same core, and only one works at any time: a round gives
each one block of steps, so that whatever else the machine does hits all alike. Compared are ratios within a round;
printed are their medians with 95 % bootstrap intervals. Both wall and CPU time are kept: on a busy machine they part.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.contender import CONTENDERS, Spec
from worldsize.config.load import load, resolve
from worldsize.measure.statistics import measured
from worldsize.models.cost import flop_per_token

PEER = "HF Trainer"
COMPARED = (("ours", PEER), ("ours compiled", PEER), ("ours", "plain"), ("ours compiled", "plain compiled"))
GOALS = {
    ("ours", PEER, False): 1.1,
    ("ours", PEER, True): 1.2,
    ("ours compiled", PEER, False): 1.3,
    ("ours compiled", PEER, True): 1.3,
    ("ours", "plain", False): 1.0,
    ("ours", "plain", True): 1.0,
    ("ours compiled", "plain compiled", False): 1.0,
    ("ours compiled", "plain compiled", True): 1.0,
}


@dataclass(frozen=True)
class Shape:
    """A model small enough for one core, a batch, and how many steps take about half a second."""

    width: int
    num_layers: int
    num_heads: int
    length: int
    num_samples: int
    steps_per_block: int


SHAPES = (Shape(128, 4, 4, 128, 16, 6), Shape(384, 4, 6, 256, 4, 3), Shape(768, 2, 12, 256, 4, 2))


def specs_for(shape: Shape, bf16: bool, num_rounds: int, core: int) -> list[Spec]:
    spec = Spec(name="", vocab_size=256, bf16=bf16, num_rounds=num_rounds, core=core, **asdict(shape))
    return [replace(spec, name=name) for name in CONTENDERS]


class Contender:
    """The driver's side of one contender's process."""

    def __init__(self, spec: Spec, log: Path) -> None:
        self.name = spec.name
        command = [sys.executable, "-m", "benchmarks.contender", json.dumps(asdict(spec))]
        environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        self._log = log.open("w")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        self._log_path = log

    def hear(self) -> dict[str, Any]:
        """Return the contender's next message. Raises RuntimeError with its last words when it died."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                message: dict[str, Any] = json.loads(line)
                return message
        raise RuntimeError(f"{self.name} ended early:\n{self._log_path.read_text()[-2000:]}")

    def block(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def rounds_of(specs: list[Spec], out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return every contender's blocks, in rounds; each round begins with another contender."""
    contenders = [Contender(spec, out / f"{spec.name.replace(' ', '-')}.log") for spec in specs]
    try:
        for contender in contenders:
            contender.hear()
        blocks: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
        for index in range(specs[0].num_rounds):
            shift = index % len(contenders)
            for contender in contenders[shift:] + contenders[:shift]:
                blocks[contender.name].append(contender.block())
        return blocks
    finally:
        for contender in contenders:
            contender.end()


def ratio(blocks: dict[str, list[dict[str, Any]]], fast: str, slow: str, clock: str) -> dict[str, Any]:
    """Return how many times the tokens/s of `slow` `fast` reaches: a ratio a round, their median and interval."""
    pairs = zip(blocks[fast], blocks[slow], strict=True)
    return measured([theirs[clock] / mine[clock] for mine, theirs in pairs]).model_dump()


def compare(shape: Shape, bf16: bool, num_rounds: int, core: int, out: Path) -> dict[str, Any]:
    """Return one model and precision's table: speeds, ratios, shares of the matmul rate, and where time goes."""
    specs = specs_for(shape, bf16, num_rounds, core)
    before = tool("benchmarks.matmul", str(core))
    blocks = rounds_of(specs, out)
    rates = faster(before, tool("benchmarks.matmul", str(core)))["bf16" if bf16 else "fp32"]
    matmul_rates = [specs[0].matmul_flop_per_block / block["wall_s"] for block in blocks.pop("matmul")]
    model = resolve(load(None, specs[0].overrides()), 1, None).config.model
    tokens = shape.steps_per_block * shape.num_samples * shape.length
    speeds = {name: [tokens / block["wall_s"] for block in own] for name, own in blocks.items()}
    flop = flop_per_token(model)
    return {
        "shape": asdict(shape),
        "precision": "bf16" if bf16 else "fp32",
        "best_matmul_flop_per_s": rates,
        "matmul_in_turns_flop_per_s": measured(matmul_rates).model_dump(),
        "tokens_per_s": {name: measured(own).model_dump() for name, own in speeds.items()},
        "mfu_vs_matmul_in_turns": {
            name: measured([flop * speed / rate for speed, rate in zip(own, matmul_rates, strict=True)]).model_dump()
            for name, own in speeds.items()
        },
        "model_flop_per_s_vs_best_f_linear": {
            name: flop * max(own) / rates["f_linear"] for name, own in speeds.items()
        },
        "peak_memory_bytes": {name: own[-1]["peak_memory_bytes"] for name, own in blocks.items()},
        "ratios": [
            {
                "ours": fast,
                "peer": slow,
                "goal": GOALS[fast, slow, bf16],
                "wall": ratio(blocks, fast, slow, "wall_s"),
                "cpu": ratio(blocks, fast, slow, "cpu_s"),
            }
            for fast, slow in COMPARED
        ],
        "share_of_step_by_class": tool("benchmarks.shares", json.dumps(asdict(specs[1]))),
    }


def faster(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the better of two measurements of the matmul rates: whatever else the machine did only slowed them."""
    return {dtype: {kind: max(one[dtype][kind], other[dtype][kind]) for kind in one[dtype]} for dtype in one}


def tool(module: str, argument: str) -> dict[str, Any]:
    """Return the JSON that a module of this package prints."""
    done = subprocess.run([sys.executable, "-m", module, argument], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def text(result: dict[str, Any]) -> str:
    """Return one comparison for people."""
    shape = result["shape"]
    lines = [
        f"width {shape['width']}, {shape['num_layers']} blocks, {shape['num_samples']} × {shape['length']} tokens, "
        f"{result['precision']}; best matmul {result['best_matmul_flop_per_s']['best_known'] / 1e9:.0f} GFLOP/s, "
        f"F.linear {result['best_matmul_flop_per_s']['f_linear'] / 1e9:.0f}"
    ]
    for name, speed in result["tokens_per_s"].items():
        share = result["mfu_vs_matmul_in_turns"][name]["median"]
        other = result["model_flop_per_s_vs_best_f_linear"][name]
        lines.append(
            f"  {name:15} {speed['median']:9,.0f} tokens/s   {share:5.2f} of matmul in turns, "
            f"{other:5.2f} of F.linear's best   {result['peak_memory_bytes'][name] / 2**20:6.0f} MiB"
        )
    for row in result["ratios"]:
        wall, cpu = row["wall"], row["cpu"]
        met = "met" if wall["median"] >= row["goal"] else "NOT MET"
        lines.append(
            f"  {row['ours']:13} / {row['peer']:14} {wall['median']:5.2f} × [{wall['low']:.2f}, {wall['high']:.2f}]"
            f"   by CPU time {cpu['median']:5.2f} ×   goal {row['goal']:.1f}: {met}"
        )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in result["share_of_step_by_class"].items())
    return "\n".join([*lines, f"  ours, eager, profiled apart: {shares}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--quick", action="store_true", help="width 384 only, fewer rounds: one to two minutes")
    parser.add_argument("--rounds", type=int, help="blocks a contender (default 5; 4 with --quick)")
    parser.add_argument("--json", action="store_true", help="print the JSON twin instead of tables")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    core = max(os.sched_getaffinity(0))
    load_before = os.getloadavg()
    results = []
    for shape in SHAPES[1:2] if arguments.quick else SHAPES:
        for bf16 in (False, True):
            num_rounds = arguments.rounds or (4 if arguments.quick else 5)
            results.append(compare(shape, bf16, num_rounds, core, arguments.out))
            print(text(results[-1]), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    twin = {
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "results": results,
    }
    (arguments.out / "train_speed.json").write_text(json.dumps(twin, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(twin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
