"""What a child process says to the one that started it: whole lines on its standard output.

    lines = pipes.claim_stdout()
    lines.write("ready unix:/run/extproc.sock")     # from any thread

A line is never torn by another thread's, and nothing else reaches the pipe: what a library prints goes to the log.
"""

from __future__ import annotations

import os
import sys
import threading

from extproc import fs


class Lines:
    """Whole lines into a pipe, for any number of threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def write(self, text: str, more: bytes = b"") -> None:
        """Write one line and the bytes that belong to it. Raises OSError when nobody reads any more."""
        data = text.replace("\n", " ").encode(errors="backslashreplace") + b"\n" + more
        with self._lock:
            fs.write_all(self._fd, data)


def claim_stdout() -> Lines:
    """Take the process's standard output for such lines; whatever else is printed goes to standard error."""
    sys.stdout.flush()
    lines = Lines(os.dup(1))
    os.dup2(2, 1)
    return lines
