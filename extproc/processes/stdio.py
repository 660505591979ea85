"""Standard output and standard error as a Unix program has them, whatever it was started with.

    stdio.prepare()     # first of all, in each process

- A closed one is a file that cannot be written: what is opened later never takes its number, and with it its output.
- Standard error never raises: a program that cannot complain goes on, and its exit code is right. Each write is one
  call of the system, so that the lines of several processes stay whole in one file, for whoever reads it as it grows.
- Standard output raises once, BrokenPipeError or an OSError that names it, and takes what follows without a word.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, BinaryIO, Final, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_OUT: Final = "standard output"


def prepare() -> None:
    """Set the standard streams of this process up."""
    for fd in (0, 1, 2):
        _open_if_closed(fd)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Out(1, "wb", closefd=False)),
        encoding=_encoding(sys.stdout),
        errors="backslashreplace",  # a terminal that knows only ASCII gets escapes instead of a traceback
        line_buffering=os.isatty(1),
    )
    sys.stderr = io.TextIOWrapper(
        cast(BinaryIO, _Err(2, "wb", closefd=False)),  # unbuffered, as `python -u` has it
        encoding=_encoding(sys.stderr),
        errors="backslashreplace",
        write_through=True,
    )


def _open_if_closed(fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        # Only to be read, so that writing fails. It gets the lowest number that is free, which is this one.
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)


def _encoding(stream: TextIO | None) -> str:
    return "utf-8" if stream is None else stream.encoding


class _Whole(io.FileIO):
    """A file that takes all of what is written, or raises."""

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data)
        rest = view
        while rest:
            rest = rest[super().write(rest) or 0 :]
        return len(view)


class _Out(_Whole):
    """Standard output, until it fails."""

    _failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except KeyboardInterrupt:
            self._failed = True  # what was being written may be out: the buffer would write it once more
            raise
        except OSError as error:
            self._failed = True
            if isinstance(error, BrokenPipeError):
                raise
            raise OSError(error.errno, error.strerror, _OUT) from None


class _Err(_Whole):
    """Standard error, whether somebody hears it or not."""

    def write(self, data: ReadableBuffer, /) -> int:
        with contextlib.suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes
