"""`python tests/warm/client.py MODULE WORDS...` in place of `python -m MODULE WORDS...`: the server forks the process.

This one hands its open files, environment and folder over, passes signals on, and ends as the fork does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys

SOCKET = "TESTS_WARM_SOCKET"
"""Environment variable with the server's address."""
PR_SET_PDEATHSIG = 1
MESSAGES_FD = "WORLDSIZE_MESSAGES_FD"


def main() -> int:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a rank must not outlive its launcher, nor must this
    numbers = [0, 1, 2, *([int(os.environ[MESSAGES_FD])] if MESSAGES_FD in os.environ else [])]
    request = {
        "words": sys.argv[1:], "fds": numbers, "folder": os.getcwd(), "environment": dict(os.environ),
        "worker": [sys.executable, "-I", "-S", os.path.abspath(__file__), "worldsize.train.worker"],
    }  # fmt: skip
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET])
        socket.send_fds(connection, [b"."], numbers)
        connection.sendall(json.dumps(request).encode() + b"\n")
        for number in numbers:
            os.close(number)  # so that a reader hears when the fork has closed its own
        answers = connection.makefile()
        pid = int(answers.readline())
        for sent in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(sent, lambda number, _: os.kill(pid, number))
        status = int(answers.readline())
    if os.WIFSIGNALED(status):
        ended_by = os.WTERMSIG(status)
        if ended_by != signal.SIGKILL:  # whose action cannot be set
            signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)
    return os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main())
