"""The `worldsize` command: a table of commands, each imported only when it runs.

To add a command: write `cli/NAME.py` with a function NAME whose docstring is its help, and add a line to COMMANDS with
the docstring's first line (a test compares the two).
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

import worldsize
from worldsize.errors import UserError, unknown

COMMANDS = {
    "train": "Train one model once and measure every step.",
    "study": "Say which speedup each added device brings.",
    "launch": "Run a study on a cluster or in a cloud, and report on it.",
    "report": "Explain what was measured, on one page or as data.",
    "audit": "Say which speedups stand, in anybody's numbers.",
    "generate": "Let a model write on from a prompt.",
    "bench": "Say how fast a model answers, by each way to keep its weights.",
    "evaluate": "Say how well a model does on data that it has not seen.",
    "quantize": "Make a model smaller, and say what that cost.",
    "export": "Write a model out for other programs.",
    "profile": "Show which operators and functions take the time.",
    "lab": "Emulate hosts and their network on this Linux machine.",
    "doctor": "Say what this machine has for training, and what is wrong.",
    "config": "Show what a run would be, and where each value came from.",
}
"""Command → one-line help, in the order of the help page. The module is worldsize.cli.COMMAND."""

_click_error: type[Exception] = typer.BadParameter.mro()[2]
"""ClickException: typer carries its own copy of click from 0.26 on, under a private name."""


class LazyGroup(TyperGroup):
    """Lists commands from the table, and imports a command's module when that command is to run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in that knows its help: enough for the help page."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the real command. Raises UserError with the nearest one when there is none of that name."""
        name = args[0]
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        return name, load_command(name), args[1:]


def load_command(name: str) -> Any:
    """Import a command's module and return it as something that can be invoked."""
    module = importlib.import_module(f"worldsize.cli.{name}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(getattr(module, name))
    return typer.main.get_command(app)


def _root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """Tells you what each extra GPU buys you: before you pay, while you train, and afterwards.

    \b
    worldsize config --preset tiny             what a run would be
    worldsize config run.yaml train.steps=100  the same, from a file and with one value changed
    worldsize COMMAND --help                   everything a command can do, with examples
    """
    if version:
        print(f"worldsize {worldsize.__version__}")
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help())


def run_command(arguments: Sequence[str]) -> int:
    """Parse the arguments, run the command and return its exit code.

    Raises UserError for bad arguments, and whatever the command raises.
    """
    app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None)
    app.callback(invoke_without_command=True)(_root)
    group = typer.main.get_command(app)
    try:
        with group.make_context("worldsize", list(arguments)) as context:
            group.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except _click_error as error:
        raise UserError(_in_words(error, arguments)) from None
    return 0


def _in_words(error: Any, arguments: Sequence[str]) -> str:
    """Return click's complaint with the help to read."""
    message = re.sub(r"Input should be ([^,]*).*", r"it must be \1", error.format_message()).rstrip(".")
    command = f"worldsize {arguments[0]}" if arguments and arguments[0] in COMMANDS else "worldsize"
    return f"{message}. See: {command} --help"


def note(message: str) -> None:
    """Say something that is not the answer: to standard error, so that standard output stays clean."""
    print(message, file=sys.stderr)
