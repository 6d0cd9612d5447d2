"""`worldsize launch`: a study on a cluster or in a cloud."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import (
    ConfigArguments,
    GlobalBatchOption,
    JsonOption,
    OverrideOption,
    PresetOption,
    ScalingOption,
    StudyFolderOption,
    VaryOption,
    split_config,
)
from worldsize.cli.launch_request import Request, request_of
from worldsize.cli.study import REPEATS
from worldsize.errors import UserError

if TYPE_CHECKING:
    from worldsize.launch.follow import Launch
    from worldsize.launch.records import JobRecord, LaunchReport
    from worldsize.study.records import StudyResult


def launch(
    config: ConfigArguments = None,
    preset: PresetOption = None,
    on: Annotated[str, typer.Option("--on", metavar="slurm|modal|sky", help="What runs it.")] = "slurm",
    nodes: Annotated[str, typer.Option(metavar="1,2,4", help="Machines, as a list to compare.")] = "1",
    gpus_per_node: Annotated[
        str | None, typer.Option(metavar="G", help="GPUs, and so ranks, on each machine; may be a list: 1,2,4,8.")
    ] = None,
    ranks_per_node: Annotated[
        str | None, typer.Option(metavar="R", help="For CPU training: ranks on each machine. Default: 1.")
    ] = None,
    global_batch: GlobalBatchOption = None,
    vary: VaryOption = None,
    scaling: ScalingOption = "strong",
    repeats: Annotated[int, typer.Option(metavar="R", min=1, help="Runs of each cell.")] = REPEATS,
    out: StudyFolderOption = None,
    time: Annotated[str | None, typer.Option(metavar="H:MM:SS", help="launch.time: a job's time limit.")] = None,
    partition: Annotated[str | None, typer.Option(metavar="NAME", help="launch.partition.")] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="launch.account.")] = None,
    constraint: Annotated[str | None, typer.Option(metavar="FEATURES", help="launch.constraint.")] = None,
    gpu: Annotated[str | None, typer.Option(metavar="TYPE", help="launch.gpu: GPU type on modal and sky.")] = None,
    cloud: Annotated[
        str | None, typer.Option(metavar="NAME", help="launch.cloud: aws, gcp, azure, kubernetes …")
    ] = None,
    instance_type: Annotated[str | None, typer.Option(metavar="TYPE", help="launch.instance_type.")] = None,
    price_per_device_hour: Annotated[
        float | None, typer.Option(metavar="PRICE", min=0.0, help="Show the expected cost; needed for modal and sky.")
    ] = None,
    expected_run_s: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.0, help="What one run takes, for the expected cost.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show each job; submit and write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking, where it costs money.")] = False,
    resubmit: Annotated[bool, typer.Option("--resubmit", help="Submit failed jobs again.")] = False,
    leave: Annotated[bool, typer.Option("--leave", help="Submit and leave; the same command follows later.")] = False,
    poll_every_s: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How often to ask the engine.")] = 5.0,
    override: OverrideOption = False,
    json_output: JsonOption = False,
) -> None:
    """Run a study on a cluster or in a cloud, and report on it.

    \b
    worldsize launch run.yaml --on slurm --nodes 1,2,4 --gpus-per-node 4 --time 1:00:00 --partition gpu
    worldsize launch run.yaml --on slurm --nodes 1,2 --gpus-per-node 4 --dry-run
    worldsize launch run.yaml --on modal --gpus-per-node 1,2,4 --gpu H100 --price-per-device-hour 4 --time 30
    worldsize launch run.yaml --on sky --nodes 1,2 --gpus-per-node 4 --cloud aws --instance-type g4dn.12xlarge \\
        --price-per-device-hour 1 --expected-run-s 300

    It trains as `worldsize study` does, in jobs of an engine that exists already: one a world size on Slurm, one a
    cell on Modal and SkyPilot. It follows the jobs, collects the runs and writes report.html. The same command picks up
    where it was: what is queued is followed, what has finished is kept, what failed is named, and with --resubmit it is
    submitted again.
    """
    options = {
        "time": time, "partition": partition, "account": account, "constraint": constraint, "gpu": gpu, "cloud": cloud,
        "instance_type": instance_type,
    }  # fmt: skip
    path, overrides = split_config(config)
    overrides += [f"launch.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    overrides += ["device.kind=cuda"] if gpus_per_node else []  # asked for, so never the CPU instead
    folder = out or Path("out") / (path.stem if path else preset or "study")
    request = request_of(
        path, overrides, preset, on=on, nodes=nodes, gpus_per_node=gpus_per_node, ranks_per_node=ranks_per_node,
        global_batch=global_batch, vary=vary or [], scaling=scaling, repeats=repeats, out=folder,
        json_output=json_output,
    )  # fmt: skip
    request = _with_costs(request, price_per_device_hour, expected_run_s)
    if dry_run:
        _show_jobs(request)
        return
    records, result = _carry_out(request, _Follow(resubmit, leave, yes, override, poll_every_s))
    _show(request, records, result)


def _with_costs(request: Request, price_per_device_hour: float | None, expected_run_s: float | None) -> Request:
    from worldsize.launch.cost import estimate

    if price_per_device_hour is None:
        if request.engine_name == "slurm":
            return request
        raise UserError(
            f"--on {request.engine_name} costs money: say what a device costs, so that the sum is shown before "
            "anything starts: --price-per-device-hour PRICE."
        )
    costs = estimate(request.jobs, request.out, price_per_device_hour, expected_run_s, request.config.launch.time)
    return replace(request, costs=costs)


@dataclass(frozen=True)
class _Follow:
    """What the user said about submitting and following."""

    resubmit: bool
    leave: bool
    yes: bool
    override: bool
    poll_every_s: float


def _carry_out(request: Request, follow: _Follow) -> tuple[list[JobRecord], StudyResult | None]:
    """Submit, follow and conclude; the study's folder is locked meanwhile."""
    from rich.console import Console

    from worldsize.launch.follow import Launch
    from worldsize.launch.jobs import write_configs
    from worldsize.launch.live import Queue
    from worldsize.run_folder import is_finished, locked, write_record
    from worldsize.study.runner import StoppedError, conclude, refuse_other_study

    console = Console(stderr=True)
    queue = Queue(console, request.out)
    task = Launch(
        request.engine, request.engine_name, request.jobs, request.out, queue.changed, poll_every_s=follow.poll_every_s
    )
    refuse_other_study(request.out, request.plan)
    _confirm(request, task, follow)
    with locked(request.out, "study"):
        write_record(request.out / "study.json", request.plan)
        write_configs(request.loaded, request.out)
        with queue.showing():
            task.submit(resubmit=follow.resubmit)
            try:
                records = task.records() if follow.leave else task.follow()
            except KeyboardInterrupt:
                raise StoppedError(
                    "no longer following; the jobs go on. The same command follows them again."
                ) from None
        ran = any(is_finished(request.out / run) for record in records for run in record.runs)
        result = conclude(request.out, override=follow.override) if ran and not follow.leave else None
    return records, result


def _confirm(request: Request, task: Launch, follow: _Follow) -> None:
    """Show the expected cost and ask, where something would be started that costs money."""
    from worldsize.launch.cost import cost_text

    if request.costs is None or not task.todo(resubmit=follow.resubmit):
        return
    typer.echo(cost_text(request.costs), err=True)
    if follow.yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nobody is here to confirm the cost. Add --yes to start without being asked.")
    if not typer.confirm("Start?", err=True):
        raise UserError("nothing was started.")


def _show_jobs(request: Request) -> None:
    from worldsize.launch.cost import cost_text

    files = {
        job.name: request.engine.render(job, runs) for job in request.jobs if (runs := job.unfinished(request.out))
    }
    if request.json_output:
        typer.echo(_report(request, [], None, files).model_dump_json(indent=1))
        return
    for name, text in files.items():
        typer.echo(f"{'-' * 10} {name}\n{text}")
    if request.costs is not None:
        typer.echo(cost_text(request.costs))


def _report(
    request: Request, records: Sequence[JobRecord], result: StudyResult | None, files: dict[str, str] | None = None
) -> LaunchReport:
    from worldsize.launch.records import LaunchReport

    return LaunchReport(
        engine=request.engine_name,
        folder=str(request.out),
        jobs=list(records),
        files=files or {},
        costs=request.costs,
        result=result,
    )


def _show(request: Request, records: Sequence[JobRecord], result: StudyResult | None) -> None:
    """Print what came of it. Raises RunError where a job failed, after everything that can be said was said."""
    from worldsize.launch.follow import refuse_unfinished

    if request.json_output:
        typer.echo(_report(request, records, result).model_dump_json(indent=1))
        if any(record.state == "failed" for record in records):
            raise typer.Exit(1)
        return
    if result is not None:
        from rich.console import Console

        from worldsize.report.table import WIDTH, table, verdict_text

        console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
        report = request.out / "report.html"
        console.print(table(result), verdict_text(result.verdict), f"\nReport: {report}", markup=False)
    refuse_unfinished(records)
