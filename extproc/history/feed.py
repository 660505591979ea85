"""The records of data directories by their time: those that are there, or as they come.

    feed = Feed([directory], everything)
    for found in feed.records(): ...                     # once, to the end

    feed = Feed([directory], from_checkpoint(positions), follow=True)
    for found in feed.records(limit): ...                # again and again
    feed.positions(directory)                            # to go on from there another time

Where reading begins is for a `Start` to say, for each series as it is met. A series that has ended is let go of when
it has been read, so that waiting costs the same however many there are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from extproc.history.extents import Extents
from extproc.history.merge import Merge
from extproc.history.position import PositionedRecord, RecordPosition, series_key
from extproc.history.tail import Tail
from extproc.journal import lines
from extproc.journal.directory import SEGMENTS
from extproc.journal.lines import Line, Listing, Series, Wanted
from extproc.journal.segment import OPEN

SegmentOffset = tuple[int, int]
"""The number of a segment, and the offset of a line in it."""

Start = Callable[[Series], SegmentOffset]
"""Where to begin in a series."""

_Key = tuple[Path, str]
_NOWHERE: Final[SegmentOffset] = (0, 0)
_TOGETHER: Final = 100
"""Each may have a body of 64 KiB."""


def everything(series: Series) -> SegmentOffset:
    """Each series from its first segment on."""
    return series.names[0].number, 0


def from_checkpoint(positions: Mapping[str, SegmentOffset]) -> Start:
    """Where each series was left; one that was not met before from its first segment on."""
    return lambda series: positions.get(series_key(series)) or everything(series)


def since(at: str, *, by_heads: bool = False) -> Start:
    """From the first segment on that can hold a record of this time or later. `by_heads`: see `Extents`."""
    extents = Extents([])

    def start(series: Series) -> SegmentOffset:
        position = extents.first_since(series, at, by_heads=by_heads)
        return (series.names[position].number, 0) if position < len(series.names) else _after(series)

    return start


def with_all_of(at: str) -> Start:
    """From a segment on with which everything is there that was in flight at a moment."""
    extents = Extents([])
    return lambda series: (series.names[extents.first_with_all_of(series, at)].number, 0)


def open_segments(directory: Path) -> dict[str, SegmentOffset]:
    """A checkpoint for one who begins now, and leaves alone what was closed before."""
    found = lines.series(directory)
    return {
        series_key(each): (each.names[-1].number, 0) if each.names[-1].state == OPEN else _after(each) for each in found
    }


def _after(series: Series) -> SegmentOffset:
    return series.names[-1].number + 1, 0


def together(records: Iterator[PositionedRecord]) -> Iterator[list[PositionedRecord]]:
    """Records a hundred at a time: what is done with each is done with all of them before the next thing is, which is
    quicker, for a processor keeps what it has just done at hand."""
    while some := list(islice(records, _TOGETHER)):
        yield some


class Feed:
    """`follow`: it grows, and goes on being asked. `wanted`: only lines that are worth being decoded (see `Tail`)."""

    def __init__(
        self,
        directories: Sequence[Path],
        start: Start,
        *,
        follow: bool = False,
        wanted: Wanted | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._listings = {directory: Listing(directory) for directory in directories}
        self._listed: dict[Path, list[Series]] = {}
        self._start = start
        self._follow = follow
        self._wanted = wanted
        self._report = report
        self._positions: dict[_Key, SegmentOffset] = {}
        self._tails: dict[_Key, Tail] = {}
        self._last: dict[_Key, int] = {}
        """The number of the last segment, of the series that are open here and of which that is closed."""
        self._merge: Merge[_Key] = Merge()

    def positions(self, directory: Path) -> dict[str, SegmentOffset]:
        """Up to where each series has been given out: the segment's number and the offset of the next line."""
        self._refresh(directory)
        return {series_key(series): self._positions[_key(series)] for series in self._listed[directory]}

    def records(
        self, limit: int | None = None, until: Mapping[str, SegmentOffset] | None = None
    ) -> Iterator[PositionedRecord]:
        """What is there now, oldest first, at most so many; fewer means that there is nothing more at the moment.
        `until`: the `positions` of another one who reads the same directory, and no further than that."""
        for directory in self._listings:
            self._refresh(directory)
        for key, line in self._merge.lines(limit, None if until is None else partial(_is_before, until)):
            self._positions[key] = (line.segment.number, line.end)
            yield PositionedRecord(key[0], RecordPosition(key[1], line.segment.number, line.offset), line.typed)
        self._let_go()

    def behind_bytes(self) -> int:
        """How many bytes of the journal were not read yet; compressed segments count as they are."""
        for directory in self._listings:
            self._refresh(directory)
        return sum(self._behind_bytes(series) for listed in self._listed.values() for series in listed)

    def _behind_bytes(self, series: Series) -> int:
        number, offset = self._positions[_key(series)]
        total = 0
        for name in series.names[bisect_left(series.names, number, key=lambda name: name.number) :]:
            try:
                size = (series.directory / SEGMENTS / str(name)).stat().st_size
            except FileNotFoundError:
                continue
            total += max(0, size - offset) if name.number == number else size
        return total

    def _refresh(self, directory: Path) -> None:
        listed = self._listings[directory].series()
        if listed is self._listed.get(directory):
            return
        self._listed[directory] = listed
        there = {_key(series): series for series in listed}
        for key in [key for key in self._tails if key[0] == directory and key not in there]:
            self._close(key)  # all its segments have been deleted, or were renamed as the directory was read
        for key, series in there.items():
            if key not in self._positions:
                self._positions[key] = self._start(series)
            self._follow_on(key, series)

    def _follow_on(self, key: _Key, series: Series) -> None:
        """Take note of what has become of a series."""
        last = series.names[-1]
        if key in self._tails:
            self._tails[key].refresh(series)
        elif last.state == OPEN or self._positions[key][0] <= last.number:
            tail = self._tails[key] = Tail(
                series, start=self._positions[key], follow=self._follow, wanted=self._wanted, report=self._report
            )
            self._merge.add(key, tail)
        if last.state != OPEN:
            self._last[key] = last.number
        else:
            self._last.pop(key, None)

    def _let_go(self) -> None:
        """Nothing is written to a series whose last segment is closed: once read, it is behind us for good."""
        for key in [key for key in self._tails if key in self._last and not self._merge.may_have_line(key)]:
            self._positions[key] = (self._last[key] + 1, 0)
            self._close(key)

    def _close(self, key: _Key) -> None:
        del self._tails[key]
        self._merge.remove(key)


def _is_before(positions: Mapping[str, SegmentOffset], key: _Key, line: Line) -> bool:
    return (line.segment.number, line.offset) < positions.get(key[1], _NOWHERE)


def _key(series: Series) -> _Key:
    return series.directory, series_key(series)
