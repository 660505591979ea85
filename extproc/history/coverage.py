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

from extproc.core.record import DamagedLine
from extproc.core.records import Access
from extproc.core.times import later, moment_text
from extproc.history import feed
from extproc.history.extents import ALWAYS, SLACK_SECONDS, Extents
from extproc.history.feed import Feed
from extproc.journal import lines
from extproc.journal.directory import SEGMENTS
from extproc.journal.flight import BEGINNING, type_and_id
from extproc.journal.lines import Series
from extproc.journal.segment import OPEN, Name, is_live

_GAP_SLACK_SECONDS: Final = 1

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
        self._directories = directories
        self._extents = Extents(directories)
        self._report = report
        self._gaps: dict[tuple[str, str], str] = {}
        self._written: list[tuple[str, str]] | None = None

    def accesses(self, since: datetime | None = None) -> Iterator[Access]:
        """The access entries of requests that began at this time or later, and perhaps some of earlier ones."""
        start = feed.since("" if since is None else moment_text(since), by_heads=True)
        entries = Feed(self._directories, start, wanted=lambda raw: raw.startswith(_ACCESS), report=self._report)
        yield from (found.record for found in entries.records() if isinstance(found.record, Access))

    def known(self, names: Collection[str], first: str, last: str) -> set[str]:
        """Those of the exchanges that have a record. They began between these times."""
        begun = later(first, -SLACK_SECONDS)
        found = self._scan(set(names), begun, later(last, SLACK_SECONDS))
        missing = set(names) - found
        if missing and last >= self.since():
            # A journal that could not be written for a while has its records and its gaps late.
            found |= self._scan(missing, begun, ALWAYS)
        return found

    def since(self) -> str:
        """The time from which on nothing was deleted; empty when there is no journal at all."""
        begun = [self._begun(series) for series in self._extents.series()]
        earliest = min((at for at, _ in begun if at), default="")
        return max((at for at, was_cut in begun if was_cut), default="") or earliest

    def written_at(self, at: str) -> bool:
        """Whether a sidecar was writing then, as far as its records tell. One that was killed wrote up to its last."""
        if self._written is None:
            self._written = [self._span(series) for series in self._extents.series()]
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
                return self._extents.begins(series, position), position > 0 or name.number > 1
        return "", True

    def _scan(self, names: set[str], first: str, last: str) -> set[str]:
        found: set[str] = set()
        for series, name in self._extents.between(first, last):
            for raw in self._raw(series, name):
                self._note(raw, names, found)
            if len(found) == len(names):
                break
        return found

    def _raw(self, series: Series, name: Name) -> Iterator[bytes]:
        """The whole lines of a segment, as far as they can be read."""
        self._report(str(name))
        try:
            with lines.open_segment(series.directory, name) as file:
                yield from (raw for raw in lines.raw_lines(file) if raw.endswith(b"\n"))
        except (DamagedLine, FileNotFoundError):
            return

    def _note(self, raw: bytes, names: set[str], found: set[str]) -> None:
        type, id = type_and_id(raw)
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
        begin = self._extents.begins(series, 0)
        if name.state == OPEN and is_live(series.directory / SEGMENTS / str(name)):
            return begin, ALWAYS
        last, footer = b"", b""
        for raw in self._raw(series, name):
            if raw.startswith(_END):
                footer = raw
            elif not raw.startswith(_ORPHAN):
                last = raw
        ends = [record for record in _decoded(footer) if not record.get("recovered")] or _decoded(last)
        return begin, str(ends[-1].get("at", begin)) if ends else begin


def _decoded(raw: bytes) -> list[dict[str, Any]]:
    """The record of a line, if it is whole."""
    parsed = lines.parse(_NOWHERE, 0, 0, raw) if raw else []
    return [line.record for line in parsed if line.damage is None]


_NOWHERE: Final = Name(0, "", 0)
