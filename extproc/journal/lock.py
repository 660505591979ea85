"""One sidecar for each data directory: a second one is refused.

The lock is the kernel's (flock), so that it goes with its holder, however that ends; a file left behind by a crash
stops nobody. The file's text is the holder's process id, for the message.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from extproc import fs
from extproc.errors import JournalError
from extproc.journal.directory import open_directory, reason

FILE_NAME: Final = "lock"
MAINTENANCE: Final = "maintenance.lock"
"""Held by whoever replaces or deletes closed segments: housekeeping, `ship`, `erase`; one at a time."""

# A reader that asks whether the lock is held holds it for a moment itself.
_WAIT_SECONDS: Final = 0.2


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold the directory. Raises JournalError, naming directory and process, when another sidecar holds it."""
    fd = _open(directory, FILE_NAME)
    try:
        if not fs.lock(fd, _WAIT_SECONDS):
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise JournalError(f"{directory}: another sidecar (process {holder}) writes to this directory")
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def maintenance(directory: Path, wait: float = 60.0) -> Iterator[None]:
    """Hold what replaces and deletes closed segments. Raises JournalError when another has it for longer than that."""
    fd = _open(directory, MAINTENANCE)
    try:
        if not fs.lock(fd, wait):
            raise JournalError(f"{directory}: another process is at work on its closed segments")
        yield
    finally:
        os.close(fd)


def _open(directory: Path, name: str) -> int:
    data = open_directory(directory)
    try:
        return os.open(name, fs.LOCK, 0o600, dir_fd=data)
    except OSError as error:
        raise JournalError(f"{directory / name}: {reason(error)}") from error
    finally:
        os.close(data)


def is_in_use(directory: Path) -> bool:
    """Whether a sidecar runs on this directory."""
    try:
        fd = os.open(directory / FILE_NAME, fs.READ)
    except OSError:
        return False
    try:
        return fs.is_locked(fd)
    finally:
        os.close(fd)
