"""Where the time of one piece of work goes: torch's profiler for operators, cProfile for Python functions.

Each looks at steps of its own, and steps that nobody looks at are timed beside them: looking costs time, and the two
would see each other.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch.profiler import ProfilerActivity, profile, record_function

from worldsize.records import Record

TRACE, PSTATS, RESULT = "trace.json.gz", "profile.pstats", "profile.json"


class OperatorTime(Record):
    """One operator over all profiled steps."""

    name: str
    calls: int
    self_s: float = Field(description="time in it and not in an operator within it; on a GPU that of its kernels")
    share: float = Field(description="of all operators' own time, 0-1")


class FunctionTime(Record):
    """One Python function over all profiled steps."""

    name: str = Field(description="file:line(function)")
    calls: int
    own_s: float = Field(description="time in it and not in a function that it called")
    with_called_s: float


class Profile(Record):
    """What `worldsize profile --json` prints, and the file profile.json."""

    what: str
    device: str
    num_steps: int
    step_s: float = Field(description="median of steps that nobody looked at")
    profiled_step_s: float = Field(description="the same under torch's profiler")
    operators: list[OperatorTime] = Field(description="the most expensive first")
    functions: list[FunctionTime] = Field(description="the most expensive first")
    files: list[str]


def profile_steps(
    run_step: Callable[[], object], *, what: str, num_steps: int, num_rows: int, device: torch.device, out: Path
) -> Profile:
    """Run 2 steps to warm up and `num_steps` for each of the three clocks; write the files into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        _timed_s(run_step, device)
    plain_s = sorted(_timed_s(run_step, device) for _ in range(num_steps))
    profiled_s, operators = _operators(run_step, num_steps, device, out / TRACE)
    python = cProfile.Profile()
    for _ in range(num_steps):
        python.runcall(_timed_s, run_step, device)
    python.dump_stats(out / PSTATS)
    found = Profile(
        what=what,
        device=str(device),
        num_steps=num_steps,
        step_s=plain_s[num_steps // 2],
        profiled_step_s=profiled_s,
        operators=operators[:num_rows],
        functions=_functions(python)[:num_rows],
        files=[str(out / name) for name in (TRACE, PSTATS, RESULT)],
    )
    (out / RESULT).write_text(found.model_dump_json(indent=1) + "\n", "utf-8")
    return found


def _timed_s(run_step: Callable[[], object], device: torch.device) -> float:
    began_s = time.perf_counter()
    run_step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began_s


def _operators(
    run_step: Callable[[], object], num_steps: int, device: torch.device, trace: Path
) -> tuple[float, list[OperatorTime]]:
    """Profile steps into a Chrome trace; return the median seconds of a step and every operator's own time."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    seconds = []
    with profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(num_steps):
            with record_function("worldsize.step"):
                seconds.append(_timed_s(run_step, device))
    profiler.export_chrome_trace(str(trace))
    rows = [_operator(event, on_gpu) for event in profiler.key_averages() if event.key != "worldsize.step"]
    total_s = sum(self_s for _, _, self_s in rows)
    found = [OperatorTime(name=n, calls=c, self_s=s, share=s / total_s) for n, c, s in rows if s > 0]
    return sorted(seconds)[num_steps // 2], sorted(found, key=lambda operator: -operator.self_s)


def _operator(event: Any, on_gpu: bool) -> tuple[str, int, float]:
    self_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return event.key, event.count, self_us / 1e6


def _functions(python: cProfile.Profile) -> list[FunctionTime]:
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(python).stats  # type: ignore[attr-defined]
    rows = [
        FunctionTime(name=_place(*place), calls=calls, own_s=own_s, with_called_s=with_called_s)
        for place, (_, calls, own_s, with_called_s, _) in stats.items()
    ]
    return sorted(rows, key=lambda function: -function.own_s)


def _place(file: str, line: int, function: str) -> str:
    """Return where a function is, in as few words as name it; built-in ones have no file."""
    if file == "~":
        return function
    return f"{os.sep.join(Path(file).parts[-2:])}:{line}({function})"
