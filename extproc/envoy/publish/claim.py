"""One publisher for each directory that an Envoy reads: a second one would put its own configuration live there.

The claim is the kernel's lock on `<directory>/.publisher`, so that it goes with the process that holds it. The file's
text is that process's id and command, for the message.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from extproc import fs
from extproc.errors import ConfigError, StackError

FILE_NAME: Final = ".publisher"


@contextlib.contextmanager
def claimed(directory: Path, command: str) -> Iterator[None]:
    """Hold the directory for `command`. Raises StackError, naming the process that holds it, and ConfigError."""
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        fd = os.open(directory / FILE_NAME, fs.LOCK, 0o600)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: cannot be written: {error.strerror}") from error
    if not fs.lock(fd):
        pid, _, name = os.pread(fd, 100, 0).decode("utf-8", "replace").strip().partition(" ")
        os.close(fd)
        raise StackError(
            f"{directory}: `extproc {name or 'up'}` (process {pid or 'unknown'}) publishes here, and its Envoy would "
            "lose what it serves now; edit the directory that it follows, or name another one with --to"
        )
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {command}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
