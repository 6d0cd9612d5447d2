"""`worldsize lab`: a cluster on one Linux machine, for a command or to see what its links give."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worldsize.cli.arguments import JsonOption
from worldsize.errors import RunError, UserError

if TYPE_CHECKING:
    from worldsize.launch.lab import Lab
    from worldsize.launch.lab_command import HostExit


def lab(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help="What every host runs. Default: measure links.", show_default=False),
    ] = None,
    hosts: Annotated[int, typer.Option(metavar="N", min=2, max=64, help="How many hosts.")] = 2,
    link: Annotated[
        str | None, typer.Option(metavar="RATE", help="Each host's link: 10gbit, 1gbit, 100mbit. Default: no limit.")
    ] = None,
    latency_ms: Annotated[
        float, typer.Option("--latency-ms", metavar="MS", min=0.0, max=1000.0, help="Delay between hosts (netem).")
    ] = 0.0,
    clean: Annotated[
        bool, typer.Option("--clean", help="Only remove what labs left whose launcher was killed.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Emulate hosts and their network on this Linux machine.

    \b
    worldsize lab --hosts 2 --link 1gbit
    worldsize lab --hosts 2 --link 1gbit -- torchrun -m worldsize train run.yaml --out out/two
    worldsize lab --hosts 4 --link 100mbit -- python train.py
    worldsize lab --clean

    Each host is a network namespace with a share of the cores; a link's rate holds in each direction. The command runs
    on every host at once and finds NODE_RANK, NNODES, MASTER_ADDR and MASTER_PORT in its environment; torchrun reads
    them by itself. Without a command an all-reduce measures what the links give. Needs root. To study what a link does
    to training: worldsize study run.yaml --nproc 1,2 --hosts 2 --link 1gbit
    """
    from worldsize.config.around import LabConfig
    from worldsize.launch import lab as emulation

    if clean:
        _clean(json_output)
        return
    config = LabConfig(hosts=hosts, link=link, latency_ms=latency_ms)
    measures = not command
    with emulation.emulated(config, hosts) as made:
        if measures:
            _measure(made, json_output)
        else:
            assert command is not None
            _run(made, command, json_output)


def _clean(json_output: bool) -> None:
    from worldsize.launch import lab as emulation

    emulation.refuse_where_impossible()
    removed = emulation.remove_stale()
    if json_output:
        print(json.dumps({"removed": removed}))
    else:
        print(f"removed: {', '.join(removed)}" if removed else "nothing was left by a lab whose launcher is gone.")


def _run(made: Lab, command: list[str], json_output: bool) -> None:
    from worldsize.launch.lab_command import run_everywhere

    exits = run_everywhere(made, command, sys.stderr if json_output else sys.stdout)
    if json_output:
        print(json.dumps({"network": made.network().model_dump(), "hosts": [one.model_dump() for one in exits]}))
    failed = [one for one in exits if one.exit_code]
    for one in failed:
        print(f"host {one.host} ended with {_how(one)}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _how(one: HostExit) -> str:
    return f"exit code {one.exit_code}" if one.exit_code > 0 else f"signal {-one.exit_code}"


def _measure(made: Lab, json_output: bool) -> None:
    """Measure an all-reduce over the hosts, one rank each."""
    import io

    from worldsize.config.rates import rate_text
    from worldsize.launch.lab_command import run_everywhere

    said = io.StringIO()
    exits = run_everywhere(made, [sys.executable, "-m", "worldsize.measure.link"], said)
    if any(one.exit_code for one in exits):
        raise RunError(f"the links could not be measured:\n{said.getvalue().strip()}")
    answers = [line.split("] ", 1)[1] for line in said.getvalue().splitlines() if line.startswith("[host 0] {")]
    if not answers:
        raise UserError(f"host 0 did not say what it measured:\n{said.getvalue().strip()}")
    measured = json.loads(answers[-1])["all_reduce_bit_per_s"]
    network = made.network().model_copy(update={"all_reduce_bit_per_s": measured})
    if json_output:
        print(network.model_dump_json(indent=1))
        return
    limit = rate_text(network.link_bit_per_s) if network.link_bit_per_s else "no limit"
    delay = f", latency {network.latency_s * 1e3:g} ms" if network.latency_s else ""
    print(f"{'hosts':<11}{network.num_hosts}, each with its own network namespace and cores")
    print(f"{'link':<11}{limit} in each direction{delay}")
    share = f", {measured / network.link_bit_per_s * 100:.0f} % of the limit" if network.link_bit_per_s else ""
    print(f"{'all-reduce':<11}{rate_text(measured)} over each host's link (gloo){share}")
