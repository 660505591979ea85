"""How files are opened, written and put into place here, once for all who do it.

    fd = os.open(name, fs.READ, dir_fd=directory)
    fs.write_all(fd, data)
    fs.put(directory, name, data)     # the new file whole, or the one before
    fs.once(path, lambda: data)       # what the file has, which is made when there is none
    if not fs.lock(fd): ...                                     # another process holds it

All may raise OSError.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

_ALWAYS: Final = os.O_NOFOLLOW | os.O_CLOEXEC
READ: Final = os.O_RDONLY | _ALWAYS
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | _ALWAYS
APPEND: Final = os.O_WRONLY | os.O_APPEND | _ALWAYS
READ_APPEND: Final = os.O_RDWR | os.O_APPEND | _ALWAYS
NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _ALWAYS
"""A file that must not be there yet."""
LOCK: Final = os.O_RDWR | os.O_CREAT | _ALWAYS
"""A file that is there to be locked."""

TEMPORARY: Final = ".tmp"
"""What `put` adds to the name of a file that is not whole yet."""

_PAUSE_SECONDS: Final = 0.02


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of the data: a short write is continued, only an error is a failure."""
    written = os.write(fd, data)
    if written != len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def put(
    directory: int, name: str, data: bytes | Callable[[BinaryIO], object], *, sync_name: bool = True, mode: int = 0o600
) -> None:
    """Make or replace a file. After a loss of power there is the new one or the one before, whole.

    `data` may be what writes it. Without `sync_name` it may be the one before although this has returned. `mode` is
    for a file that others are to read: less what the process's umask takes away.
    """
    temporary = name + TEMPORARY
    try:
        fd = os.open(temporary, NEW, mode, dir_fd=directory)
    except FileExistsError:  # left behind by one that was killed
        os.unlink(temporary, dir_fd=directory)
        fd = os.open(temporary, NEW, mode, dir_fd=directory)
    with os.fdopen(fd, "wb") as file:
        if callable(data):
            data(file)
        else:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    if sync_name:
        os.fsync(directory)


def once(path: Path, make: Callable[[], bytes]) -> bytes:
    """What a file has that is made when it is asked for first, 0600, and then stays as it is.

    It is there whole or not at all, also after a loss of power, and of several that make it at once all get the first.
    """
    with directory(path.parent) as parent:
        if not os.path.lexists(path):
            _make(parent, path.name, make())
        with os.fdopen(os.open(path.name, READ, dir_fd=parent), "rb") as file:
            return file.read()


def _make(parent: int, name: str, data: bytes) -> None:
    draft = f".{name}.{os.urandom(4).hex()}"
    put(parent, draft, data, sync_name=False)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.unlink(draft, dir_fd=parent)
    os.fsync(parent)


@contextlib.contextmanager
def directory(path: os.PathLike[str]) -> Iterator[int]:
    """A handle on a directory, for as long as the block runs."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def lock(fd: int, wait: float = 0.0) -> bool:
    """Take the kernel's lock on an open file, which goes with its holder; False when it is still held after `wait`."""
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE_SECONDS)
        else:
            return True


def is_locked(fd: int) -> bool:
    """Whether a process holds the lock on an open file. Who asks holds it itself for a moment, until `fd` is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
