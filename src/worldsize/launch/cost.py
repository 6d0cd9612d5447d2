"""What a launch is expected to cost, from the user's price and a duration whose source is told. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from worldsize.errors import UserError
from worldsize.launch.jobs import Job
from worldsize.launch.records import CostEstimate, JobCost
from worldsize.run_folder import RESULT, is_finished
from worldsize.study.files import read_run
from worldsize.study.grid import Planned

SECONDS_PER_HOUR = 3600.0


def estimate(
    jobs: Sequence[Job], out: Path, price_per_device_hour: float, expected_run_s: float | None, time: str | None
) -> CostEstimate:
    """Return price × devices × expected hours of what is not finished, job by job.

    A run's duration is what `expected_run_s` says; else what the finished runs of its cell took; else the job's time
    limit shared by its runs, an upper bound. Raises UserError where none of these is there.
    """
    costs = []
    for job in jobs:
        left = job.unfinished(out)
        if left:
            run_s, source = _run_s(job, left, out, expected_run_s, time)
            cost = price_per_device_hour * job.shape.world_size * len(left) * run_s / SECONDS_PER_HOUR
            costs.append(
                JobCost(
                    job=job.name,
                    num_devices=job.shape.world_size,
                    num_runs=len(left),
                    run_s=run_s,
                    run_s_source=source,
                    cost=cost,
                )
            )
    return CostEstimate(price_per_device_hour=price_per_device_hour, jobs=costs, cost=sum(each.cost for each in costs))


def _run_s(
    job: Job, left: Sequence[Planned], out: Path, expected_run_s: float | None, time: str | None
) -> tuple[float, str]:
    if expected_run_s is not None:
        return expected_run_s, "--expected-run-s"
    finished = [out / planned.folder for planned in job.runs if is_finished(out / planned.folder)]
    if finished:
        what = "run" if len(finished) == 1 else "runs"
        source = f"the training time ({RESULT}: wall_s) of its {len(finished)} finished {what}"
        return median(read_run(folder).result.wall_s for folder in finished), source
    if time is not None:
        return time_limit_s(time) / len(left), "the time limit (launch.time), an upper bound"
    raise UserError(
        f"nothing says how long a run of {job.name} takes, so its cost cannot be estimated. Type --expected-run-s "
        "SECONDS (what one run took elsewhere), or a limit: --time 1:00:00."
    )


def time_limit_s(text: str) -> float:
    """Return in seconds a time limit as Slurm writes it: 90 (minutes), 1:30 (and seconds), 1-12 (days and hours)."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in re.split(":", rest)]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)


def cost_text(costs: CostEstimate) -> str:
    """Return the estimate as lines for people; amounts are in the currency of the price."""
    lines = [
        f"  {each.job}: {each.num_runs} runs × {each.run_s:.0f} s × {each.num_devices} devices × "
        f"{costs.price_per_device_hour:g} an hour = {each.cost:.2f}  (duration: {each.run_s_source})"
        for each in costs.jobs
    ]
    return "\n".join(
        ["Expected cost, without queueing, start-up and downloads:", *lines, f"  together {costs.cost:.2f}"]
    )
