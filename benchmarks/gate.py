"""How one contender takes turns: it runs a block of steps when told to, and says how long that took. Torch-free."""

from __future__ import annotations

import json
import os
import resource
import sys
import time

WARMUP_BLOCKS = 2


class Gate:
    """The contender's side: call `block_done` after every block of steps.

    The first blocks (compilation, caches) are not timed. Before each later block it waits for a line on standard
    input, so that only one contender runs at any time; an empty input ends the process.
    """

    def __init__(self, core: int) -> None:
        self._core = core
        self._blocks = 0
        self._began_s = 0.0
        self._began_cpu_s = 0.0

    def block_done(self) -> None:
        ended_s, ended_cpu_s = time.perf_counter(), time.process_time()
        self._blocks += 1
        if self._blocks < WARMUP_BLOCKS:
            return
        if self._blocks == WARMUP_BLOCKS:
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), {self._core})
            print(json.dumps({"ready": True}), flush=True)
        else:
            block = {
                "wall_s": ended_s - self._began_s,
                "cpu_s": ended_cpu_s - self._began_cpu_s,
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            print(json.dumps(block), flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        self._began_s, self._began_cpu_s = time.perf_counter(), time.process_time()
