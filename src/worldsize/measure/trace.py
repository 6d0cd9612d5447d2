"""Traced steps: communication and compute as intervals, and the collectives as the libraries themselves report them.

Tracing runs apart from timing. The profiler's exported events are read, not the strategy's own bookkeeping, so the
bytes observed here check the bytes that the strategy predicts.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from worldsize.measure.intervals import Interval, clip, difference, length
from worldsize.records import CollectiveCount

STEP = "worldsize.step"
COPY_INTO_BUCKET = "torch::distributed::reducer::copy_"
DTYPE_BYTES = {
    "unsigned char": 1,
    "float": 4,
    "double": 8,
    "c10::Half": 2,
    "c10::BFloat16": 2,
    "Byte": 1,
    "Float": 4,
    "Double": 8,
    "Half": 2,
    "BFloat16": 2,
}

Event = dict[str, Any]


@dataclass(frozen=True)
class TracedStep:
    """One profiled step of one rank, seconds."""

    wall_s: float
    communication_s: float
    exposed_communication_s: float
    """Communication minus compute."""
    copies_s: float
    """Copies of gradients into exchange buckets: compute here, part of what the exchange costs."""


def trace(
    run_step: Callable[[], None], before_step: Callable[[], None], *, num_steps: int, device: torch.device
) -> list[Event]:
    """Run one step to warm the profiler and `num_steps` more; return all events. Called on every rank."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    before_step()
    run_step()
    with profile(activities=activities, record_shapes=True) as profiler:
        for i in range(num_steps + 1):
            before_step()
            with record_function(STEP if i else "worldsize.warmup"):
                run_step()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "trace.json")
        profiler.export_chrome_trace(path)
        with open(path, encoding="utf-8") as file:
            events: list[Event] = json.load(file)["traceEvents"]
    return events


def save(events: list[Event], path: Path) -> None:
    """Write events as a gzipped Chrome trace, which Perfetto opens; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with gzip.open(temporary, "wt", encoding="utf-8") as file:
        json.dump({"traceEvents": events}, file)
    shutil.move(temporary, path)


def steps_of(events: Iterable[Event]) -> list[TracedStep]:
    """Cut a trace into its steps and measure each."""
    complete = [event for event in events if event.get("ph") == "X"]
    on_gpu = any(event.get("cat") == "kernel" for event in complete)
    communication = [_interval(e) for e in complete if _is_communication(e, on_gpu)]
    compute = [_interval(e) for e in _without_waiting(complete, on_gpu)]
    copies = [_interval(e) for e in complete if e["name"] == COPY_INTO_BUCKET]
    steps = []
    for window in _step_windows(complete):
        talking = clip(communication, window)
        steps.append(
            TracedStep(
                wall_s=(window[1] - window[0]) / 1e6,
                communication_s=length(talking) / 1e6,
                exposed_communication_s=length(difference(talking, clip(compute, window))) / 1e6,
                copies_s=length(clip(copies, window)) / 1e6,
            )
        )
    return steps


def _without_waiting(events: list[Event], on_gpu: bool) -> list[Event]:
    """Return the compute. Of an operator that issues a collective, and may wait for it, only the operators within."""
    compute = [event for event in events if _is_compute(event, on_gpu)]
    issued = [(e["ts"], e.get("tid")) for e in events if e["name"].startswith("c10d::") and not on_gpu]
    return [
        event
        for event in compute
        if not any(tid == event.get("tid") and event["ts"] <= ts < event["ts"] + event["dur"] for ts, tid in issued)
    ]


def collectives_of(events: Iterable[Event], groups: dict[int, str]) -> list[CollectiveCount]:
    """Return what one step's collectives carried, by kind and group; `groups` names a group by its size.

    gloo reports a collective's tensors; NCCL reports `record_param_comms` with the elements that went in.
    """
    complete = [event for event in events if event.get("ph") == "X"]
    windows = _step_windows(complete)
    if not windows:
        return []
    totals: dict[tuple[str, int], int] = {}
    for event in complete:
        found = _collective(event, max(groups))
        if found and any(start <= event["ts"] < end for start, end in windows):
            kind, group_size, payload_bytes = found
            totals[kind, group_size] = totals.get((kind, group_size), 0) + payload_bytes
    return [
        CollectiveCount(
            kind=kind,
            group=groups.get(group_size, f"of {group_size}"),
            group_size=group_size,
            payload_bytes=total // len(windows),
        )
        for (kind, group_size), total in sorted(totals.items())
    ]


def _collective(event: Event, world_size: int) -> tuple[str, int, int] | None:
    """Return (kind, group size, payload bytes) when the event is a collective that carries data."""
    name, args = event["name"], event.get("args", {})
    if name.startswith("gloo:") and args.get("Input Dims"):
        sizes = zip(args["Input Dims"], args["Input type"], strict=True)
        payload_bytes = sum(math.prod(dims) * DTYPE_BYTES.get(dtype, 0) for dims, dtype in sizes if dims)
        return (name.removeprefix("gloo:"), world_size, payload_bytes) if payload_bytes else None
    if name == "record_param_comms" and args.get("Collective name"):
        kind = {"allreduce": "all_reduce", "_allgather_base": "all_gather", "_reduce_scatter_base": "reduce_scatter"}
        collective = args["Collective name"]
        payload_bytes = int(args.get("In msg nelems", 0)) * DTYPE_BYTES.get(args.get("dtype", ""), 0)
        return (kind.get(collective, collective), int(args.get("Group size", world_size)), payload_bytes)
    return None


def _step_windows(events: Iterable[Event]) -> list[Interval]:
    return sorted(_interval(e) for e in events if e["name"] == STEP and e.get("cat") == "user_annotation")


def _interval(event: Event) -> Interval:
    return (event["ts"], event["ts"] + event["dur"])


def _is_communication(event: Event, on_gpu: bool) -> bool:
    if on_gpu:
        return event.get("cat") == "kernel" and "nccl" in event["name"].lower()
    return event.get("cat") == "user_annotation" and event["name"].startswith("gloo:")


def _is_compute(event: Event, on_gpu: bool) -> bool:
    if on_gpu:
        return event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") and "nccl" not in event["name"].lower()
    return event.get("cat") == "cpu_op" and not event["name"].startswith(("c10d::", "gloo:", "record_param_comms"))
