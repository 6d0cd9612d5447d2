"""The rate that a link between hosts really gives: a short all-reduce over all ranks, timed."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from statistics import median

import torch
import torch.distributed as dist

from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import Layout

FIRST_BYTES, MOST_BYTES = 1 << 20, 1 << 26
ROUND_S = 0.3
"""How long one timed all-reduce should take."""
NUM_ROUNDS = 5
TIMEOUT_S = 120


def all_reduce_bit_per_s(context: RankContext, num_hosts: int) -> float:
    """Return the bit/s that an all-reduce sends over each host's link. Called on every rank.

    An all-reduce over n hosts sends and receives 2 (n - 1) / n of its payload over each host's link (Patarasu and Yuan,
    J. Parallel Distrib. Comput. 69, 2009: no algorithm sends less). Of a round the slowest rank counts, and of rounds
    the median.
    """
    share = 2 * (num_hosts - 1) / num_hosts
    _round_s(context, FIRST_BYTES)  # connections are made
    first_s = _round_s(context, FIRST_BYTES)
    payload_bytes = int(min(max(FIRST_BYTES * ROUND_S / first_s, FIRST_BYTES), MOST_BYTES)) // 4 * 4
    rounds_s = [_round_s(context, payload_bytes) for _ in range(NUM_ROUNDS)]
    return payload_bytes * 8 * share / median(rounds_s)


def _round_s(context: RankContext, payload_bytes: int) -> float:
    """Return how long the slowest rank took for one all-reduce."""
    payload = torch.zeros(payload_bytes // 4, device=context.device)
    context.barrier()
    began_s = time.perf_counter()
    dist.all_reduce(payload)
    if context.device.type == "cuda":
        torch.cuda.synchronize(context.device)
    elapsed: list[float] = context.gather(time.perf_counter() - began_s)
    return max(elapsed)


def main() -> None:
    """Measure as one rank of an emulated host, of which each runs one; rank 0 prints JSON."""
    num_hosts, rank = int(os.environ["NNODES"]), int(os.environ["NODE_RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=num_hosts, timeout=timedelta(seconds=TIMEOUT_S))
    context = RankContext(rank, num_hosts, 0, torch.device("cpu"), Layout(dp=num_hosts))
    rate = all_reduce_bit_per_s(context, num_hosts)
    if context.is_main:
        print(json.dumps({"all_reduce_bit_per_s": rate}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
