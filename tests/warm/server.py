"""`python tests/warm/server.py SOCKET`: forks the processes that are asked for, with torch imported already.

Most of what a tiny run takes is the import of torch, two seconds for every rank. A fork of a process that has done it
begins at once, and is otherwise what a new one would be: it has its own pid, the environment, folder and
open files of who asked (client.py), and is killed when that process ends. Linux only.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from worldsize.cli import COMMANDS
from worldsize.launch import local

PRELOADED = (
    "worldsize.train.run", "worldsize.train.worker", "worldsize.train.checkpoint", "worldsize.report.html",
    *(f"worldsize.cli.{name}" for name in COMMANDS),
    "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.pipelining", "torch.distributed.tensor.parallel",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
)  # fmt: skip

IF_INSTALLED = tuple(f"transformers.models.{name}.modeling_{name}" for name in ("bert", "gpt2", "llama"))
MAINS = {
    "worldsize": "worldsize.__main__",
    "worldsize.train.worker": "worldsize.train.worker",
    "tests.faulty_worker": "tests.faulty_worker",
}
"""What can be asked for → the module whose `main` it is."""
ROOT = Path(__file__).parents[2]


def serve(path: str) -> None:
    """Answer requests until the process that started this one ends: it holds our standard input open."""
    for module in PRELOADED:
        importlib.import_module(module)
    with contextlib.suppress(ImportError):
        for module in IF_INSTALLED:
            importlib.import_module(module)
    gc.freeze()  # what is imported lives on: nothing to look through, nor to copy, in every fork
    threads = os.listdir("/proc/self/task")
    assert len(threads) == threading.active_count() == 1, "a fork has none of the threads of its parent"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that attend
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
            assert ready == [listener]
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                attend(connection)
            connection.close()


def attend(connection: socket.socket) -> None:
    """Fork the process that is asked for, tell its pid, and how it ended; end it when nobody waits any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, fds, _, _ = socket.recv_fds(connection, 1, 8)
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        become(request, fds)
    for fd in (0, 1, 2, *fds):
        os.close(fd)
    connection.sendall(f"{pid}\n".encode())
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    try:
        connection.sendall(f"{status}\n".encode())
    finally:
        os._exit(0)


def become(request: dict[str, Any], fds: list[int]) -> None:
    """Turn into the process that is asked for, and end as it ends."""
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD, max(request["fds"]) + 1) for fd in fds]  # out of the way of what comes
    for fd in fds:
        os.close(fd)
    for fd, number in zip(above, request["fds"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    module, *sys.argv[1:] = request["words"]
    sys.argv[0] = module
    local.WORKER = request["worker"]
    sys.path[:0] = [str(ROOT)]
    code = importlib.import_module(MAINS[module]).main()
    if module != "worldsize":  # a rank: like the real one it does not wait for its peers in destructors
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
