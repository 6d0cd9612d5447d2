"""Marks around fully_shard's communication: what is marked when, seen from the weights themselves on two ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.conformance.steps import config_of
from tests.ranks import Ranks
from worldsize.measure.clock import NullClock
from worldsize.measure.fsdp_clock import StreamWaits


class Diary(NullClock):
    """Writes down each mark, and whether the block's weights were whole at that moment."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.entries: list[tuple[str, bool]] = []

    def mark(self, phase: str) -> None:
        weight = next(self.block.parameters())
        self.entries.append((phase, type(weight) is nn.Parameter and not hasattr(weight, "to_local")))


def diary_of_one_block(rank: int, world_size: int) -> list[tuple[str, bool]]:
    """Run forward and backward of one sharded block with marks around its waits."""
    from torch.distributed.device_mesh import init_device_mesh

    from worldsize.parallel.fsdp import shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("fsdp",))
    root: Any = shard(model, ["1"], config_of(), mesh)
    waits, diary = StreamWaits(), Diary(model[1])
    waits.attach_to_weights(root[1])
    root(torch.ones(2, 4))  # outside a step: no clock, no mark
    root[1].reshard()
    waits.clock = diary
    root(torch.ones(2, 4)).sum().backward()
    return diary.entries


def test_a_blocks_weights_arrive_between_the_marks_of_forward_and_of_backward(two_ranks: Ranks) -> None:
    arrives = [("compute_s", False), ("exposed_communication_s", True)]
    for entries in two_ranks.run(diary_of_one_block):
        assert entries == arrives * 2
