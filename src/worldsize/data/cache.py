"""Files that several processes make once and share: a lock, atomic writing, and what to say when it fails."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from worldsize.errors import UserError


def cache_folder(cache_dir: str | None) -> Path:
    """Return the folder of tokenized corpora and make it. Raises UserError where it cannot be made."""
    if cache_dir is not None:
        folder = Path(cache_dir).expanduser()
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldsize"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(folder, error) from error
    return folder


def cache_error(path: Path, error: OSError) -> UserError:
    """Return the error for a cache file that cannot be written, with what to change."""
    advice = "Choose a folder that can be written: data.cache_dir=FOLDER."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        advice = (
            "Free some space there, choose another place with data.cache_dir=FOLDER, or use less: data.max_bytes=N."
        )
    return UserError(f"cannot write the data cache {path}: {error.strerror or error}. {advice}")


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the exclusive lock at `path`; the others wait, after `on_wait`. A process that dies lets go of it.

    Raises UserError where the lock file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise cache_error(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `path` whole or not at all. The caller holds the lock beside it.

    The temporary's name is fixed, so that what a killed process left is overwritten by the next. Raises UserError
    on a full disk or a folder that cannot be written; an OSError raised in the body is taken for one of these.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise cache_error(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    with suppress(OSError):  # where the folder itself cannot be written, the error on its way says so
        path.unlink(missing_ok=True)
