"""One rank's process: pins itself, joins the others, runs the job, and says in one message how it ended.

Started by launch/local.py with the job on standard input and a pipe for its messages. Under torchrun
`worldsize train` calls `run_rank` in torchrun's own process instead.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldsize.checkpoint_folder import Start, begin
from worldsize.config.load import Loaded, from_dict
from worldsize.errors import UserError
from worldsize.launch.pinning import is_for_cpu, pin
from worldsize.launch.progress import OnProgress, Progress, silent
from worldsize.records import Origin
from worldsize.run_folder import locked

if TYPE_CHECKING:
    from worldsize.parallel.context import RankContext
    from worldsize.train.running import Where

MESSAGES_FD = "WORLDSIZE_MESSAGES_FD"
PROGRESS_EVERY_S = 0.5
PR_SET_PDEATHSIG = 1


class RankFailed(Exception):  # noqa: N818
    """A rank's end in words: `message` for people, `traceback` for whoever looks closer."""

    def __init__(self, rank: int, message: str, details: str) -> None:
        super().__init__(message)
        self.rank = rank
        self.message = message
        self.details = details


def run_rank(
    loaded: Loaded,
    out: Path,
    command: Sequence[str],
    on_progress: OnProgress,
    *,
    start: Start | None = None,
    resume: bool = False,
) -> bool:
    """Run this process's rank; return False when `out` already holds this very run, finished.

    Without `start` no launcher has locked and checked the folder, so rank 0 does; `resume` as for `begin`. Raises
    RankFailed with a message that names the rank, the stage and the step.
    """
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = loaded.config.device
    cores = pin(local_rank, device.threads_per_rank) if device.pin and is_for_cpu(device) else None
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    from worldsize.train.allocator import tune_allocator

    tune_allocator()
    import torch

    from worldsize.parallel.layout import layout_for
    from worldsize.train.process_group import joined
    from worldsize.train.run import Job, run
    from worldsize.train.running import Where

    torch.set_num_threads(device.threads_per_rank)
    where = Where()
    signal.signal(signal.SIGUSR1, lambda *_: setattr(where, "asked_to_leave", True))
    try:
        layout = layout_for(loaded.config.parallel, int(os.environ.get("WORLD_SIZE", "1")))
        with ExitStack() as stack:
            context = stack.enter_context(joined(loaded.config, layout))
            start = start or _begun(loaded, out, context, stack, resume=resume)
            if start is None:
                return False
            for note in start.notes:
                on_progress(Progress("resuming", note=note))
            run(Job(loaded, out, command, cores, start.checkpoint), context, on_progress, where)
    except Exception as error:
        raise RankFailed(rank, explain(error, rank, where, loaded), traceback.format_exc()) from error
    return True


def _begun(loaded: Loaded, out: Path, context: RankContext, stack: ExitStack, *, resume: bool) -> Start | None:
    """Lock and check the folder on rank 0, and let every rank know; return where to start, None if all is done."""
    start, refusal = None, None
    if context.is_main:
        try:
            stack.enter_context(locked(out, "run"))
            start = begin(out, loaded.config.model_dump(), context.world_size, resume=resume)
        except UserError as error:
            refusal = str(error)
    answers: list[tuple[Start | None, str | None]] = context.gather((start, refusal))
    start, refusal = answers[0]
    if refusal is not None:
        raise UserError(refusal)
    return start


def explain(error: Exception, rank: int, where: Where, loaded: Loaded) -> str:
    """Return one message: which rank, which step, what happened, what to do."""
    import torch

    place = f"rank {rank} failed at step {where.step} ({where.stage})"
    config = loaded.config
    if isinstance(error, FloatingPointError):
        return (
            f"{error}. Lower optimizer.learning_rate (now {config.optimizer.learning_rate:g}), lengthen "
            f"optimizer.warmup_steps (now {config.optimizer.warmup_steps}), or use train.precision=bf16 or fp32."
        )
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"{place}: out of GPU memory. Lower train.micro_batch (now {config.train.micro_batch}; the global batch "
            f"stays the same) or make the model smaller. {error}"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return f"{place}: {error.strerror or error}{f': {error.filename}' if error.filename else ''}. " + (
            "Free some space, or give another --out, and run the same command again."
        )
    if "timed out" in str(error).lower():
        return (
            f"{place}: another rank did not answer within device.timeout_s={config.device.timeout_s:g} s (timed out). "
            "Look for a rank that hangs or a host that is cut off, or raise device.timeout_s."
        )
    if isinstance(error, ValueError) and type(error).__module__.startswith("worldsize"):
        return str(error)
    return f"{place}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


class Throttled:
    """Passes on at most a message every half second, and every change of stage: parents share the ranks' cores."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._sent_s = 0.0
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        last = progress.step == progress.num_steps or progress.note
        if progress.stage != self._stage or last or now_s - self._sent_s >= PROGRESS_EVERY_S:
            self._stage, self._sent_s = progress.stage, now_s
            self._send({"progress": progress.as_dict()})


def die_with_parent() -> None:
    """Ask the kernel to end this process when its launcher ends, however that happens. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Run the rank that the environment describes, with the job from standard input."""
    die_with_parent()
    job = json.loads(sys.stdin.read())
    messages = os.fdopen(int(os.environ[MESSAGES_FD]), "w", buffering=1)

    def send(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")

    origins = {key: Origin.model_validate(origin) for key, origin in job["origins"].items()}
    loaded = Loaded(config=from_dict(job["config"]), origins=origins)
    is_main = os.environ["RANK"] == "0"
    try:
        start = Start(Path(job["checkpoint"]) if job["checkpoint"] else None, [])
        run_rank(loaded, Path(job["out"]), job["command"], Throttled(send) if is_main else silent, start=start)
    except RankFailed as failure:
        send({"error": {"rank": failure.rank, "message": failure.message, "details": failure.details}})
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a failed rank must not wait for its peers in the process group's destructor
