"""When each segment was written, so that a question reads only those that can hold an answer.

    extents = Extents(directories)
    extents.series()                        # as they are now
    extents.first_since(series, at)         # before this position nothing was written at `at` or later
    extents.first_with_all_of(series, at)   # from this one on stands all that was in flight at `at`
    extents.between(first, last)            # the segments that were written between these times, by their heads

Positions are indexes into `Series.names`; times are RFC 3339 in UTC, as in records. A file's own time is never before
its latest record, whatever the clock did (`segment.touch`), so what is passed over by it holds nothing that is missed.
By the heads less is read, but a clock that was set back can hide what was written before: whoever relies on them
looks again without a limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from extproc.core.times import later, started_by_id, timestamp
from extproc.journal import lines
from extproc.journal.directory import SEGMENTS
from extproc.journal.lines import Series
from extproc.journal.segment import OPEN, Name

ALWAYS: Final = "~"
"""After every time."""

SLACK_SECONDS: Final = 60
"""An exchange has its first record within this time, and clocks agree within it, too."""

_ID_SECONDS: Final = 1
"""An id has milliseconds only, and a segment may begin right after the record."""


class Extents:
    """The segments of some data directories, with their times. Heads are read once."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._begins: dict[tuple[Path, str], str] = {}

    def series(self) -> list[Series]:
        """All series, as they are now."""
        return [series for directory in self._directories for series in lines.series(directory)]

    def begins(self, series: Series, position: int) -> str:
        """The time at the head of a segment; empty when it cannot be read, or there is no such segment."""
        if position >= len(series.names):
            return ""
        name = series.names[position]
        key = (series.directory, name.stem)
        if key not in self._begins:
            head = lines.header(series.directory, name)
            if head is None:
                return ""
            self._begins[key] = str(head.get("at", ""))
        return self._begins[key]

    def written_until(self, series: Series, position: int) -> str:
        """A time after which nothing was written to a segment, by its file; no end for one that may be growing."""
        name = series.names[position]
        if name.state == OPEN:
            return ALWAYS
        try:
            return timestamp((series.directory / SEGMENTS / str(name)).stat().st_mtime_ns)
        except FileNotFoundError:
            return ALWAYS  # it has another name by now

    def first_since(self, series: Series, at: str, *, by_heads: bool = False) -> int:
        """The position of the first segment that can hold a record of this time or later."""
        if not at:
            return 0
        ends = self._ends if by_heads else self.written_until
        earliest = later(at, -SLACK_SECONDS)
        positions = range(len(series.names))
        return next((position for position in positions if ends(series, position) >= earliest), len(series.names))

    def first_with_all_of(self, series: Series, at: str) -> int:
        """The position of a segment from which on everything stands that was in flight at a moment."""
        position = self._begun_before(series, at)
        head = lines.header(series.directory, series.names[position])
        if head is None:
            return 0
        carried = [started_by_id(id) for id, had in (head.get("in_flight") or {}).items() if had != "response"]
        if not carried:
            return position
        oldest = min(carried)
        return min(position, self._begun_before(series, later(oldest, -_ID_SECONDS))) if oldest else 0

    def between(self, first: str, last: str) -> Iterator[tuple[Series, Name]]:
        """The segments that were written at some time between these two, by their heads."""
        for series in self.series():
            for position, name in enumerate(series.names):
                if self.begins(series, position) <= last and self._ends(series, position) >= first:
                    yield series, name

    def _ends(self, series: Series, position: int) -> str:
        if position + 1 < len(series.names):
            return self.begins(series, position + 1) or ALWAYS
        return self.written_until(series, position)

    def _begun_before(self, series: Series, at: str) -> int:
        """The position of the last segment that was begun by then; the first one where none was."""
        positions = range(len(series.names))
        # What was written last before then was begun before as well; of those, no head has to be read.
        later_ones = (position for position in positions if self.written_until(series, position) >= at)
        found = max(next(later_ones, len(series.names)) - 1, 0)
        for position in positions[found:]:
            if self.begins(series, position) > at:
                break
            found = position
        return found
