"""One series read from some segment on, to its end or for as long as it grows.

Reading needs no agreement with the writer: a line counts once its line end is there, and a segment is finished once
it has been closed or the series has a later one, since nothing but a footer is written to it after that.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from extproc import fs
from extproc.core.record import LONGEST_LINE
from extproc.core.records import NOTHING
from extproc.journal import lines
from extproc.journal.lines import Line, Series, Wanted
from extproc.journal.segment import CLOSED, COMPRESSED, OPEN, Name

_CHUNK: Final = 1024 * 1024


class Tail:
    """Iterating gives the lines; with `follow` also None, each time there is nothing more at the moment.

    `start`: the number of a segment and the offset of a line in it, to go on from there. `wanted`: of a line as it
    stands, whether it is worth being decoded; heads may come all the same. `report` is told which segment is read.
    Whoever follows calls `refresh` with the series as it is now before asking again.
    """

    def __init__(
        self,
        series: Series,
        *,
        start: tuple[int, int] = (0, 0),
        follow: bool = False,
        wanted: Wanted | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.directory: Path = series.directory
        self._names = series.names
        self._follow = follow
        self._start = start
        self._wanted = wanted
        self._report = report

    def begins_at(self) -> str:
        """The time at the head of the first segment; empty when it has none that can be read."""
        position = bisect_left(self._names, self._start[0], key=_number)
        head = lines.header(self.directory, self._names[position]) if position < len(self._names) else None
        return str(head.get("at", "")) if head is not None else ""

    def refresh(self, series: Series) -> None:
        """Take note of segments that were begun, closed or deleted."""
        self._names = series.names

    def __iter__(self) -> Iterator[Line | None]:
        last = self._start[0] - 1
        while True:
            position = bisect_right(self._names, last, key=_number)
            name = self._names[position] if position < len(self._names) else None
            if name is not None:
                last = name.number
                self._report(str(name))
                yield from self._segment(name, self._start[1] if last == self._start[0] else 0)
            elif self._follow:
                yield None
            else:
                return

    def _segment(self, name: Name, offset: int) -> Iterator[Line | None]:
        fd = None if name.state == COMPRESSED else self._open(name)
        if fd is None:
            yield from self._whole(name, offset)
            return
        try:
            yield from self._growing(fd, name, offset)
        finally:
            os.close(fd)

    def _whole(self, name: Name, offset: int) -> Iterator[Line]:
        try:
            yield from lines.read_lines(self.directory, name, offset, self._wanted)
        except FileNotFoundError:
            return  # deleted by retention since it was listed

    def _open(self, name: Name) -> int | None:
        for state in (name.state + name.moved, CLOSED):
            try:
                return os.open(self.directory / "segments" / (name.stem + state), fs.READ)
            except FileNotFoundError:
                continue
        return None

    def _growing(self, fd: int, name: Name, offset: int) -> Iterator[Line | None]:
        number = last_seq = 0
        while True:
            later, finished = self._later(name)
            limit = lines.void_from(self.directory, later) if name.state == OPEN else None
            if os.fstat(fd).st_size < offset:
                offset = number = 0  # a torn end was cut off behind us; what was given out is passed over below
            repeated = last_seq if offset == 0 else 0
            for raw in _complete_lines(fd, offset):
                number += 1
                is_wanted = self._wanted is None or self._wanted(raw)
                for line in lines.parse(name, number, offset, raw) if is_wanted else ():
                    seq = line.typed.seq
                    if not repeated or seq > repeated:
                        last_seq = max(last_seq, seq)
                        if not lines.is_void(line.typed, limit):
                            yield line
                offset += len(raw)
            if finished or not self._follow:
                rest = os.fstat(fd).st_size - offset
                if rest > 0 and name.state != OPEN:
                    yield Line(name, number + 1, offset, offset + rest, NOTHING, lines.CUT_OFF)
                return
            yield None

    def _later(self, name: Name) -> tuple[list[Name], bool]:
        """The segments after this one, and whether this one grows no more."""
        after = bisect_right(self._names, name.number, key=_number)
        growing = after > 0 and self._names[after - 1].number == name.number and self._names[after - 1].state == OPEN
        finished = after < len(self._names) or not growing
        return self._names[after:] if name.state == OPEN else [], finished


def _number(name: Name) -> int:
    return name.number


def _complete_lines(fd: int, offset: int) -> Iterator[bytes]:
    """The lines from `offset` on that have their line end."""
    size = _CHUNK
    while True:
        data = os.pread(fd, size, offset)
        end = data.rfind(b"\n") + 1
        if end:
            for raw in data[:end].split(b"\n")[:-1]:
                yield raw + b"\n"
            offset += end
            size = _CHUNK
        elif len(data) < size:
            return
        elif size < LONGEST_LINE:
            size *= 2
        else:
            yield data  # no record is so long
            offset += len(data)
