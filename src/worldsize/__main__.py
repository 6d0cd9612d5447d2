"""The command line's outermost layer: whatever goes wrong ends in one readable message and an exit code.

Exit codes: 0 done, 1 a run failed, 2 bad input, 70 a mistake of worldsize's own, 130 Ctrl-C,
141 the reader of the pipe left.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence

from worldsize.errors import UserError

OWN_MISTAKE = 70
INTERRUPTED = 130
PIPE_CLOSED = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `worldsize` with these arguments (default: the process's) and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from worldsize.cli import run_command

        code = run_command(given)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(str(error), error.exit_code, given)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C.", INTERRUPTED, given)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it leaves
        return PIPE_CLOSED
    except Exception as error:
        return _fail(_own_mistake(error), OWN_MISTAKE, given)


def _own_mistake(error: Exception) -> str:
    if os.environ.get("WORLDSIZE_DEBUG") == "1":
        traceback.print_exc()
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"worldsize made a mistake: {type(error).__name__}: {error} ({last.filename}:{last.lineno}). "
        "Nothing is wrong with your input. Set WORLDSIZE_DEBUG=1 and run it again for the traceback; please report it."
    )


def _fail(message: str, code: int, arguments: Sequence[str]) -> int:
    """Say it on standard error, and with --json also as an object on standard output."""
    print(f"error: {message}", file=sys.stderr)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--json" in options:
        print(json.dumps({"error": message, "exit_code": code}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
