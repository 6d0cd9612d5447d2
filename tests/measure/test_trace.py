"""Traces written by hand, for gloo and for NCCL, with every answer worked out."""

from typing import Any

import pytest

from worldsize.measure.trace import collectives_of, steps_of
from worldsize.records import CollectiveCount


def event(name: str, ts: float, dur: float, cat: str = "cpu_op", **args: Any) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "args": args}


def gloo(ts: float, dur: float, numel: int) -> dict[str, Any]:
    return event("gloo:all_reduce", ts, dur, "user_annotation", **{"Input Dims": [[numel]], "Input type": ["float"]})


CPU = [
    event("worldsize.warmup", 0, 900, "user_annotation"),
    gloo(500, 400, 1000),
    event("worldsize.step", 1000, 1000, "user_annotation"),
    event("aten::mm", 1000, 500),
    event("torch::distributed::reducer::copy_", 1500, 20),
    event("c10d::allreduce_", 1520, 30),
    gloo(1550, 250, 100),
    event("aten::mm", 1600, 100),
    event("aten::add", 1650, 20),
    gloo(1750, 150, 60),
    event("aten::adam", 1900, 100),
]
"""One step of 1 ms: gloo in flight 1550-1900, compute in it 1600-1700, so 250 µs are exposed."""


def test_gloo_communication_minus_compute() -> None:
    (step,) = steps_of(CPU)
    assert step.wall_s == pytest.approx(1e-3)
    assert step.communication_s == pytest.approx(350e-6)
    assert step.exposed_communication_s == pytest.approx(250e-6)
    assert step.copies_s == pytest.approx(20e-6)


def test_gloo_bytes_are_counted_inside_steps_only() -> None:
    assert collectives_of(CPU, {2: "dp"}) == [
        CollectiveCount(kind="all_reduce", group="dp", group_size=2, payload_bytes=640)
    ]


CUDA = [
    event("worldsize.step", 0, 1000, "user_annotation"),
    event("aten::mm", 0, 10),
    event("gemm_kernel", 100, 300, "kernel"),
    event("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 300, 400, "kernel"),
    event("adam_kernel", 650, 100, "kernel"),
    event(
        "record_param_comms", 290, 5,
        **{"Collective name": "allreduce", "In msg nelems": 256, "dtype": "Float", "Group size": 8},
    ),
]  # fmt: skip
"""NCCL runs 300-700, compute 100-400 and 650-750: 250 µs are exposed."""


def test_on_cuda_kernels_count_and_host_operators_do_not() -> None:
    (step,) = steps_of(CUDA)
    assert step.communication_s == pytest.approx(400e-6)
    assert step.exposed_communication_s == pytest.approx(250e-6)


def test_nccl_reports_its_group_and_bytes() -> None:
    assert collectives_of(CUDA, {8: "dp"}) == [
        CollectiveCount(kind="all_reduce", group="dp", group_size=8, payload_bytes=1024)
    ]


def test_an_operator_that_waits_for_its_own_collective_is_not_compute_meanwhile() -> None:
    """gloo runs 120-320 within a node of backward, whose own compute is 100-110 and 320-350."""
    events = [
        event("worldsize.step", 0, 1000, "user_annotation"),
        event("autograd::engine::evaluate_function", 90, 300),
        event("aten::cat", 100, 10),
        event("c10d::_reduce_scatter_base_", 115, 5),
        gloo(120, 200, 100),
        event("aten::copy_", 310, 40),
    ]
    (step,) = steps_of(events)
    assert step.exposed_communication_s == pytest.approx(190e-6)
