"""The data directory: who may write into it, and handles that stay on it whatever its name points to later.

    <data>/lock        held by the one sidecar that writes here (`lock.py`)
    <data>/segments/   0700, the records (`segment.py`)
    <data>/bodies/     0700, bodies too large for a record (`spool.py`)

Everything is opened relative to a directory's handle and never through a symbolic link, so that nobody who can
write elsewhere can move the journal. A directory that others own or may write to is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from extproc import fs, shell
from extproc.errors import JournalError

SEGMENTS = "segments"
BODIES = "bodies"
REMOVED = "the directory has been removed"

_MIB = 1024 * 1024
_BODY = re.compile(r"([0-9A-Za-z][0-9A-Za-z-]{0,63})\.(request|response)")


def exchange_of(file_name: str) -> str | None:
    """The id of the exchange that a body file belongs to; None for a name that is no body's."""
    match = _BODY.fullmatch(file_name)
    return None if match is None else match[1]


def reason(error: OSError) -> str:
    """What the system said, without Python's decoration."""
    return error.strerror or str(error)


def lacks_room(error: BaseException | None) -> bool:
    """Whether it is a full disk, or a full quota, that is behind an OSError or a JournalError."""
    while isinstance(error, JournalError):
        error = error.__cause__
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def open_directory(path: Path) -> int:
    """A handle on a directory of ours that only we can write to. Raises JournalError for any other."""
    try:
        fd = os.open(path, fs.DIRECTORY)
    except FileNotFoundError:
        raise JournalError(f"{path}: there is no such directory") from None
    except OSError as error:
        if path.is_symlink():
            raise JournalError(f"{path}: is a symbolic link; name the directory itself") from error
        raise JournalError(f"{path}: {reason(error)}") from error
    status = os.fstat(fd)
    # Root can write where it likes, whoever owns it.
    if status.st_uid not in (os.geteuid(), 0):
        os.close(fd)
        raise JournalError(f"{path}: belongs to another user ({_user(status.st_uid)}), who could change what is in it")
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.close(fd)
        raise JournalError(f"{path}: others may write to it (mode {mode:04o}); run: chmod go-w {shell.path(path)}")
    return fd


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def make(path: Path) -> None:
    """Make a data directory, and those above it, where they are missing. Raises OSError.

    Its own entry is on disk then, whoever made it: what is acknowledged in it later must not go with it.
    """
    missing = [each for each in path.parents if not each.exists()]
    path.mkdir(0o700, parents=True, exist_ok=True)
    for each in [path, *missing]:
        # One that we may not read was not made by us.
        with contextlib.suppress(PermissionError):
            sync(each.parent)


def sync(path: Path) -> None:
    """Bring the entries of a directory to disk. Raises OSError."""
    with fs.directory(path) as fd:
        os.fsync(fd)


class DataDirectory:
    """The opened data directory of a writer: `segments` and `bodies` are made when they are missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as undo:
            data = open_directory(path)
            undo.callback(os.close, data)
            self.segments = self._subdirectory(data, SEGMENTS)
            undo.callback(os.close, self.segments)
            self.bodies = self._subdirectory(data, BODIES)
            os.fsync(data)
            undo.pop_all()
            os.close(data)

    def _subdirectory(self, data: int, name: str) -> int:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=data)
            return open_directory(self.path / name)
        except OSError as error:
            raise JournalError(f"{self.path / name}: {reason(error)}") from error

    def has_segment(self, name: str) -> bool:
        """Whether there is a file of this name among the segments, as far as that can be seen."""
        try:
            os.stat(name, dir_fd=self.segments, follow_symlinks=False)
        except OSError as error:
            return not isinstance(error, FileNotFoundError)
        return True

    def close(self) -> None:
        """Give the handles back."""
        os.close(self.segments)
        os.close(self.bodies)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class FreeSpace:
    """Whether a directory is still there and its file system has room above the floor, asked at most twice a second.

    Without a number the floor is the smaller of 256 MiB and 5 % of the file system.
    """

    def __init__(self, fd: int, floor_bytes: int | None) -> None:
        self._fd = fd
        self._floor = floor_bytes
        self._next = 0.0
        self._shortage: str | None = None

    def shortage(self) -> str | None:
        """What is wrong, or None while there is room."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.5
            self._shortage = self._ask()
        return self._shortage

    def _ask(self) -> str | None:
        try:
            if os.fstat(self._fd).st_nlink == 0:
                return REMOVED
            system = os.fstatvfs(self._fd)
        except OSError as error:
            return reason(error)
        free, floor = _space(system, self._floor)
        if free >= floor:
            return None
        return f"only {free} bytes are free, fewer than the floor of {floor}"


def space(path: Path, floor_bytes: int | None) -> tuple[int, int]:
    """The free bytes of a directory's file system, and the floor that holds for it. 0 where it cannot be asked."""
    try:
        return _space(os.statvfs(path), floor_bytes)
    except OSError:
        return 0, floor_bytes or 0


def _space(system: os.statvfs_result, floor_bytes: int | None) -> tuple[int, int]:
    floor = floor_bytes
    if floor is None:
        floor = min(256 * _MIB, system.f_blocks * system.f_frsize // 20)
    return system.f_bavail * system.f_frsize, floor
