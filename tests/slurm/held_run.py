"""Stands in for python in a job: training waits before step HOLD_AT for as long as the file HOLD_FILE exists.

So a test interrupts a run in the middle, however fast the machine is.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

HOLD_AT = 14


def main() -> int:
    if sys.argv[1] == "-c":
        exec(sys.argv[2])
        return 0
    from worldsize.__main__ import main as worldsize
    from worldsize.train.loop import Trainer

    step_of = Trainer._timed_step
    hold = Path(os.environ["HOLD_FILE"])

    def held(trainer: Trainer, step: int) -> Any:
        while step == HOLD_AT and hold.exists():
            time.sleep(0.05)
        return step_of(trainer, step)

    Trainer._timed_step = held  # type: ignore[method-assign]
    return worldsize(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
