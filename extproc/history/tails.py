"""All series of a data directory as one stream of records, by their time, while they grow.

A series that has ended is let go of when it has been read. Where a position is kept, reading goes on there; without
one it begins at the segments that are open now: what was closed before the follower was first started is history,
which `extproc follow --since` can still export.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from extproc.history.tail import Tail
from extproc.journal import lines
from extproc.journal.directory import SEGMENTS
from extproc.journal.lines import Line, Listing, Series
from extproc.journal.segment import OPEN

Record = Mapping[str, Any]

RecordPosition = tuple[str, int, int]
"""Where a record stands: its series (`w0-BOOT`), the segment's number, the offset in its uncompressed bytes."""


class Tails:
    """The records of a directory. `history`: everything from the first segment on, and no waiting for more."""

    def __init__(self, directory: Path, kept: Mapping[str, tuple[int, int]] | None, *, history: bool = False) -> None:
        self._directory = directory
        self._listing = Listing(directory)
        self._listed: list[Series] | None = None
        self._history = history
        self._new = kept is None and not history
        self._positions: dict[str, tuple[int, int]] = dict(kept or {})
        self._open: dict[str, _Source] = {}
        self._first = True

    def positions(self) -> dict[str, tuple[int, int]]:
        """Up to where each series has been given out: the segment's number and the offset of the next line."""
        return dict(self._positions)

    def records(self, limit: int) -> Iterator[tuple[RecordPosition, Record]]:
        """What is there now, oldest first, at most so many; fewer means that there is nothing more at the moment."""
        self._refresh()
        queue = [(source.next_at, key) for key, source in self._open.items() if source.look()]
        heapq.heapify(queue)
        for _ in range(limit):
            if not queue:
                break
            _, key = queue[0]
            source = self._open[key]
            line = source.take()
            self._positions[key] = (line.segment.number, line.end)
            if source.look():
                heapq.heapreplace(queue, (source.next_at, key))
            else:
                heapq.heappop(queue)
            yield (key, line.segment.number, line.offset), line.record
        self._let_go()

    def behind_bytes(self) -> int:
        """How many bytes of the journal were not read yet; compressed segments count as they are."""
        total = 0
        for series in self._listing.series():
            number, offset = self._positions.get(_key(series), (0, 0))
            for name in series.names[bisect_left(series.names, number, key=lambda name: name.number) :]:
                try:
                    size = (self._directory / SEGMENTS / str(name)).stat().st_size
                except FileNotFoundError:
                    continue
                total += max(0, size - offset) if name.number == number else size
        return total

    def _refresh(self) -> None:
        listed = self._listing.series()
        if listed is self._listed:
            return
        self._listed = listed
        everything = {_key(series): series for series in listed}
        for key in self._positions.keys() - everything.keys():
            self._open.pop(key, None)
            del self._positions[key]  # all its segments have been deleted
        for key, series in everything.items():
            source = self._open.get(key)
            if source is not None:
                source.tail.refresh(series)
            elif not self._has_been_read(key, series):
                source = self._open[key] = self._begin(key, series)
            if source is not None and series.names[-1].state != OPEN:
                source.last = series.names[-1].number
        self._first = False

    def _has_been_read(self, key: str, series: Series) -> bool:
        last = series.names[-1]
        if last.state == OPEN:
            return False
        if self._new and self._first:
            self._positions[key] = (last.number + 1, 0)
        return self._positions.get(key, (0, 0))[0] > last.number

    def _begin(self, key: str, series: Series) -> _Source:
        start = self._positions.get(key)
        if start is None:
            # The segment that is open; of a series that has begun since the follower runs, the first one.
            start = (series.names[-1 if self._new and self._first else 0].number, 0)
        self._positions[key] = start
        return _Source(Tail(series, follow=not self._history, start=start))

    def _let_go(self) -> None:
        """Nothing is written to a series whose last segment is closed: once read, it is behind us for good."""
        for key, source in list(self._open.items()):
            if source.last is not None and not source.look():
                self._positions[key] = (source.last + 1, 0)
                del self._open[key]


class _Source:
    """One series, with the line that comes next."""

    def __init__(self, tail: Tail) -> None:
        self.tail = tail
        self.next_at = ""
        self.last: int | None = None
        """The number of its last segment, once that is closed."""
        self._lines: Iterator[Line | None] = iter(tail)
        self._next: Line | None = None

    def look(self) -> bool:
        """Whether there is a line now."""
        while self._next is None:
            line = next(self._lines, None)
            if line is None:
                return False
            if line.damage is None and "type" in line.record and "at" in line.record:
                self._next = line
                self.next_at = max(self.next_at, str(line.record["at"]))
        return True

    def take(self) -> Line:
        line, self._next = self._next, None
        assert line is not None
        return line


def record_at(directory: Path, place: RecordPosition) -> Record | None:
    """The record that stands at a place, whatever has become of its segment; None when it is gone."""
    key, number, offset = place
    for series in lines.series(directory):
        if _key(series) == key:
            for name in series.names:
                if name.number == number:
                    line = lines.line_at(directory, name, offset)
                    return None if line is None else line.record
    return None


def _key(series: Series) -> str:
    return f"w{series.worker}-{series.boot_id}"
