"""Weights in one mapping: the same values, each on a cache line, shared ones once."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from worldsize.inference.arena import ALIGNMENT_BYTES, HUGE_PAGE_BYTES, allocate, into_arena


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Buffer(torch.arange(35, dtype=torch.float32).view(5, 7))
        self.second = nn.Buffer(torch.arange(9, dtype=torch.int8))
        self.again = self.first
        self.third = nn.Buffer(torch.full((3,), 1.5, dtype=torch.bfloat16))


def test_values_stay_and_lie_in_one_aligned_mapping() -> None:
    holder = Holder()
    before = {name: tensor.clone() for name, tensor in holder.named_buffers()}
    assert into_arena(holder) == 192 + 64 + 64  # 140, 9 and 6 bytes
    gc.collect()
    for name, tensor in holder.named_buffers():
        assert torch.equal(tensor, before[name])
        assert tensor.data_ptr() % ALIGNMENT_BYTES == 0
    assert holder.again.data_ptr() == holder.first.data_ptr()
    assert holder.first.data_ptr() % HUGE_PAGE_BYTES == 0
    assert holder.second.data_ptr() - holder.first.data_ptr() == 192
    assert into_arena(nn.Linear(2, 2)) == 0


def test_an_allocation_can_be_written_to_its_end() -> None:
    size_bytes = HUGE_PAGE_BYTES + 5
    arena = allocate(size_bytes)
    arena.fill_(7)
    assert arena.shape == (size_bytes,)
    assert int(arena.sum()) == 7 * size_bytes


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="Linux alone tells of its mappings")
def test_the_mapping_is_of_the_kind_that_gets_huge_pages() -> None:
    """Private, and advised ("hg"): shared ones get none unless the machine's owner says so."""
    held = allocate(4 * HUGE_PAGE_BYTES)
    address = held.data_ptr()
    mapping: list[str] = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            low, high = (int(end, 16) for end in line.split()[0].split("-"))
            mapping = [line] if low <= address < high else []
        elif mapping:
            mapping.append(line)
            if line.startswith("VmFlags:"):
                break
    assert mapping[0].split()[1] == "rw-p"
    assert "hg" in mapping[-1].split()
