"""One sidecar for each data directory: a second one is refused.

The lock is the kernel's (flock), so that it goes with its holder, however that ends; a file left behind by a crash
stops nobody. The file's text is the holder's process id, for the message.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from extproc.errors import JournalError
from extproc.journal.directory import open_directory, reason

FILE_NAME: Final = "lock"

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# A reader that asks whether the lock is held holds it for a moment itself.
_TRIES: Final = 10
_PAUSE_SECONDS: Final = 0.02


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold the directory. Raises JournalError, naming directory and process, when another sidecar holds it."""
    data = open_directory(directory)
    try:
        fd = os.open(FILE_NAME, _FLAGS, 0o600, dir_fd=data)
    except OSError as error:
        raise JournalError(f"{directory / FILE_NAME}: {reason(error)}") from error
    finally:
        os.close(data)
    try:
        if not _acquire(fd):
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise JournalError(f"{directory}: another sidecar (process {holder}) writes to this directory")
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(fd)


def is_locked(directory: Path) -> bool:
    """Whether a sidecar runs on this directory."""
    try:
        fd = os.open(directory / FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _acquire(fd: int) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return True
    return False
