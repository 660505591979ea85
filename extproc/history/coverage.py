"""What the journal covers: which exchanges it has, since when, when a sidecar was writing it, and what it missed.

    coverage = Coverage(directories)
    coverage.accesses(since)             # Envoy's access entries, by the time at which they came
    coverage.known(names, first, last)   # which of these exchanges, begun between these times, have a record
    coverage.since()                     # a record of an exchange that began earlier may have been deleted
    coverage.written_at(time)            # whether a sidecar was running at a moment
    coverage.gap(first, last)            # why nothing could be written at some moment between these

Times are RFC 3339 in UTC with microseconds, as in records. An exchange goes by its id, or, where the recorder could
give Envoy no id (`best_effort`), by Envoy's `request_id`. Segments are read beside a writer, and only those that can
hold what is asked for; a line is decoded only when its first bytes say that it is worth it. Memory holds the times of
the segments and of the gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from extproc.core.record import DamagedLine, moment_text, timestamp
from extproc.history.join import Record, later
from extproc.history.reader import merged
from extproc.journal import lines
from extproc.journal.directory import SEGMENTS
from extproc.journal.flight import BEGINNING, type_and_id
from extproc.journal.lines import Line, Series
from extproc.journal.segment import OPEN, Name, is_live

_SLACK_SECONDS: Final = 60
"""An exchange has its first record within this time; clocks agree within it, too."""
_GAP_SLACK_SECONDS: Final = 1
_ALWAYS: Final = "~"
"""After every time."""

_ACCESS: Final = b'{"type":"access",'
_GAP: Final = b'{"type":"gap",'
# What recovery writes has the time of the recovery: the one always, the other when it says so.
_ORPHAN: Final = b'{"type":"orphan",'
_END: Final = b'{"type":"end",'
# Quotes in a client's text are escaped in a record, so nothing that a client sends can look like this.
_BEST_EFFORT: Final = b'"best_effort":true'

Report = Callable[[str], None]


class Coverage:
    """The journal in some data directories, also while it grows. `report` is told which segment is being read."""

    def __init__(self, directories: Sequence[Path], report: Report = lambda _: None) -> None:
        self._segments = _Segments(directories, report)
        self._gaps: dict[tuple[str, str], str] = {}
        self._written: list[tuple[str, str]] | None = None

    def accesses(self, since: datetime | None = None) -> Iterator[Record]:
        """The access entries of requests that began at this time or later, and perhaps some of earlier ones."""
        first = "" if since is None else moment_text(since)
        sources = [_Accesses(self._segments, series, first) for series in self._segments.series()]
        for _, record in merged(sources):
            yield record

    def known(self, names: Collection[str], first: str, last: str) -> set[str]:
        """Those of the exchanges that have a record. They began between these times."""
        begun = later(first, -_SLACK_SECONDS)
        found = self._scan(set(names), begun, later(last, _SLACK_SECONDS))
        missing = set(names) - found
        if missing and last >= self.since():
            # A journal that could not be written for a while has its records and its gaps late.
            found |= self._scan(missing, begun, _ALWAYS)
        return found

    def since(self) -> str:
        """The time from which on nothing was deleted; empty when there is no journal at all."""
        begun = [self._begun(series) for series in self._segments.series()]
        earliest = min((at for at, _ in begun if at), default="")
        return max((at for at, was_cut in begun if was_cut), default="") or earliest

    def written_at(self, at: str) -> bool:
        """Whether a sidecar was writing then, as far as its records tell. One that was killed wrote up to its last."""
        if self._written is None:
            self._written = [self._span(series) for series in self._segments.series()]
        return any(begin <= at <= end for begin, end in self._written)

    def gap(self, first: str, last: str) -> str | None:
        """Why requests could not be recorded between these times; None where they could. Asked for after `known`."""
        begin, end = later(first, -_GAP_SLACK_SECONDS), later(last, _GAP_SLACK_SECONDS)
        return next((why for (start, stop), why in self._gaps.items() if start <= end and begin <= stop), None)

    # Reading -------------------------------------------------------------------------------------------------

    def _begun(self, series: Series) -> tuple[str, bool]:
        """From when on a series is all there, and whether it once began earlier."""
        for position, name in enumerate(series.names):
            if not (lines.header(series.directory, name) or {}).get("kept"):
                return self._segments.begins(series, position), position > 0 or name.number > 1
        return "", True

    def _scan(self, names: set[str], first: str, last: str) -> set[str]:
        found: set[str] = set()
        for series, name in self._segments.between(first, last):
            for raw in self._segments.raw(series, name):
                self._note(raw, names, found)
            if len(found) == len(names):
                break
        return found

    def _note(self, raw: bytes, names: set[str], found: set[str]) -> None:
        try:
            type, id = type_and_id(raw)
        except UnicodeDecodeError:
            return  # damaged, which `verify` says
        if type in BEGINNING:
            if id in names:
                found.add(id)
            if _BEST_EFFORT in raw:
                found.update({str(record.get("request_id")) for record in _decoded(raw)} & names)
        elif raw.startswith(_GAP):
            for record in _decoded(raw):
                if record.get("direction") == "request":
                    self._gaps[str(record["from"]), str(record["to"])] = str(record.get("why"))

    def _span(self, series: Series) -> tuple[str, str]:
        """From when to when a series was written."""
        name = series.names[-1]
        begin = self._segments.begins(series, 0)
        if name.state == OPEN and is_live(series.directory / SEGMENTS / str(name)):
            return begin, _ALWAYS
        last, footer = b"", b""
        for raw in self._segments.raw(series, name):
            if raw.startswith(_END):
                footer = raw
            elif not raw.startswith(_ORPHAN):
                last = raw
        ends = [record for record in _decoded(footer) if not record.get("recovered")] or _decoded(last)
        return begin, str(ends[-1].get("at", begin)) if ends else begin


class _Segments:
    """The segments of all directories as they are now, with their times."""

    def __init__(self, directories: Sequence[Path], report: Report) -> None:
        self._directories = directories
        self._report = report
        self._headers: dict[tuple[Path, str], str] = {}

    def series(self) -> list[Series]:
        return [series for directory in self._directories for series in lines.series(directory)]

    def begins(self, series: Series, position: int) -> str:
        """The time at the head of a segment; empty when it cannot be read."""
        name = series.names[position]
        key = (series.directory, name.stem)
        if key not in self._headers:
            head = lines.header(series.directory, name)
            if head is None:
                return ""
            self._headers[key] = str(head.get("at", ""))
        return self._headers[key]

    def ends(self, series: Series, position: int) -> str:
        """A time after which nothing was written to a segment."""
        if position + 1 < len(series.names):
            return self.begins(series, position + 1) or _ALWAYS
        name = series.names[position]
        if name.state == OPEN:
            return _ALWAYS
        try:
            return timestamp((series.directory / SEGMENTS / str(name)).stat().st_mtime_ns)
        except FileNotFoundError:
            return _ALWAYS

    def between(self, first: str, last: str) -> Iterator[tuple[Series, Name]]:
        for series in self.series():
            for position, name in enumerate(series.names):
                if self.begins(series, position) <= last and self.ends(series, position) >= first:
                    yield series, name

    def raw(self, series: Series, name: Name) -> Iterator[bytes]:
        """The whole lines of a segment, as far as they can be read."""
        self._report(str(name))
        try:
            with lines.open_segment(series.directory, name) as file:
                yield from (raw for raw in lines.raw_lines(file) if raw.endswith(b"\n"))
        except (DamagedLine, FileNotFoundError):
            return


class _Accesses:
    """The access entries of one series, from the first segment that can hold one of this time."""

    def __init__(self, segments: _Segments, series: Series, since: str) -> None:
        self.directory = series.directory
        self._segments = segments
        self._series = series
        slack = later(since, -_SLACK_SECONDS) if since else ""
        positions = range(len(series.names))
        self._first = next((each for each in positions if segments.ends(series, each) >= slack), len(series.names))

    def begins_at(self) -> str:
        return self._segments.begins(self._series, self._first) if self._first < len(self._series.names) else ""

    def __iter__(self) -> Iterator[Line | None]:
        for position, name in enumerate(self._series.names[self._first :], self._first + 1):
            later_names = self._series.names[position:]
            limit = lines.void_from(self.directory, later_names) if name.state == OPEN else None
            for raw in self._segments.raw(self._series, name):
                if raw.startswith(_ACCESS):
                    yield from (line for line in lines.parse(name, 0, 0, raw) if not lines.is_void(line.record, limit))


def _decoded(raw: bytes) -> list[dict[str, Any]]:
    """The record of a line, if it is whole."""
    parsed = lines.parse(_NOWHERE, 0, 0, raw) if raw else []
    return [line.record for line in parsed if line.damage is None]


_NOWHERE: Final = Name(0, "", 0)
