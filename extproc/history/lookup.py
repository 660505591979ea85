"""Exchanges by what people call them, and by where their records stand. Little is read, and less is decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from extproc.core.record import DamagedLine
from extproc.core.records import Access, id_of
from extproc.core.times import later, timestamp
from extproc.history import alone
from extproc.history.extents import ALWAYS, SLACK_SECONDS, Extents
from extproc.history.identifier import Identifier
from extproc.history.join import ACCESS_SECONDS, JOINED, Exchange, Parts
from extproc.history.position import PositionedRecord, RecordPosition, RecordReader, position_of
from extproc.journal import lines
from extproc.journal.flight import BEGINNING, type_and_id
from extproc.journal.lines import Series, Wanted
from extproc.journal.segment import Name

Report = Callable[[str], None]

Times = tuple[str, str]
"""Between which moments something was, RFC 3339 in UTC."""

_EVER: Final[Times] = ("", ALWAYS)


def find(directories: Sequence[Path], text: str, report: Report = lambda _: None) -> list[Exchange]:
    """The exchanges that are called so (see `identifier.py`), in flight or ended. An id of ours tells its time, so
    little has to be read for its beginning; for anything else every line is looked at, and few are decoded.
    `report` is told which segment is being read.
    """
    wanted = Identifier.of(text)
    search = _Search(directories, report)
    times_of_own = _times_of(wanted.own)
    if times_of_own != _EVER and (found := search.exchanges(wanted.begins, times_of_own)):
        return found
    ids = set(search.ids(wanted))
    if not ids:
        return []
    times = [_times_of(id) for id in ids]
    between = min(earliest for earliest, _ in times), max(latest for _, latest in times)
    # An id that is none of ours by its form, or that came long after its time, takes a look everywhere.
    return search.exchanges(ids.__contains__, between) or search.exchanges(ids.__contains__, _EVER)


def at_positions(
    directory: Path, positions: Iterable[RecordPosition], reader: RecordReader | None = None
) -> Exchange | None:
    """The exchange whose records stand there; None when what is left of them is none."""
    reader = reader or RecordReader(directory)
    parts: Parts | None = None
    for position in positions:
        found = reader.record(position)
        if found is not None:
            record = alone.as_own(found)
            parts = parts or Parts("", directory)
            parts.id = str(id_of(record)) if not alone.stands_alone(record) or not parts.id else parts.id
            parts.add(record, position)
    return parts.exchange(timestamp(time.time_ns())) if parts is not None and parts.began else None


class _Search:
    """Looks through segments for lines that may be of a few exchanges."""

    def __init__(self, directories: Sequence[Path], report: Report) -> None:
        self._extents = Extents(directories)
        self._series = self._extents.series()
        self._report = report

    def exchanges(self, wanted: Callable[[str], bool], times: Times) -> list[Exchange]:
        """The exchanges with such ids that started between two moments."""
        found = self._found(wanted, times)
        ended = max((parts.ended_at or "" for parts in found.values() if parts.access is None), default="")
        if later(ended, ACCESS_SECONDS) > later(times[1], SLACK_SECONDS):
            # One that took long has its entry long after its beginning, perhaps in another worker's segment.
            found = self._found(wanted, (times[0], later(ended, ACCESS_SECONDS)))
        self._find_entries(times, found)
        now = timestamp(time.time_ns())
        return [parts.exchange(now) for parts in found.values() if parts.began]

    def _found(self, wanted: Callable[[str], bool], times: Times) -> dict[str, Parts]:
        found: dict[str, Parts] = {}
        for series in self._series:
            self._find(series, wanted, times, found)
        return found

    def ids(self, wanted: Identifier) -> Iterator[str]:
        """The ids of the exchanges that are called so."""
        for series in self._series:
            for name in series.names:
                for found in self._records(series, name, lambda raw: alone.may_be(raw) or wanted.may_name(raw)):
                    if wanted.names_record(found.record):
                        yield str(id_of(found.record))

    def _find(self, series: Series, wanted: Callable[[str], bool], times: Times, found: dict[str, Parts]) -> None:
        """Add what one series has of the exchanges with such ids; an access record may be in another one."""
        earliest, latest = times
        for position in range(self._extents.first_since(series, earliest), len(series.names)):
            if all(parts.over for parts in found.values()) and self._begins_after(series, position, latest):
                break
            name = series.names[position]
            for each in self._records(series, name, lambda raw: alone.may_be(raw) or wanted(type_and_id(raw)[1])):
                id = str(id_of(each.record))
                if not wanted(id):  # it stood behind another one, on a line whose end was lost
                    continue
                parts = found.setdefault(id, Parts(id, series.directory))
                if each.record.type in BEGINNING and parts.directory != series.directory:
                    parts.directory = series.directory  # where its bodies are
                    parts.positions.clear()
                parts.add(each.record, each.position if parts.directory == series.directory else None)

    def _find_entries(self, times: Times, found: dict[str, Parts]) -> None:
        """Give exchanges without an entry those that stand alone and are theirs."""
        waiting = {
            parts.begun.request_id: parts
            for parts in found.values()
            if parts.access is None and parts.begun is not None and parts.begun.request_id
        }
        for series in self._series if waiting else ():
            for position in range(self._extents.first_since(series, times[0]), len(series.names)):
                for each in self._records(series, series.names[position], alone.may_be):
                    entry = each.record
                    parts = waiting.get(entry.request_id or "") if isinstance(entry, Access) else None
                    begun = None if parts is None else parts.begun
                    if (
                        parts is not None
                        and begun is not None
                        and isinstance(entry, Access)
                        and alone.is_of(entry, begun)
                    ):
                        parts.add(entry, each.position if parts.directory == series.directory else None)
                        found.pop(str(entry.id), None)

    def _begins_after(self, series: Series, position: int, latest: str) -> bool:
        begins = self._extents.begins(series, position)
        return bool(begins) and begins > later(latest, SLACK_SECONDS)

    def _records(self, series: Series, name: Name, wanted: Wanted) -> Iterator[PositionedRecord]:
        """The records of exchanges in the lines that are wanted; only those are decoded."""
        self._report(str(name))
        try:
            for line in lines.read_lines(series.directory, name, wanted=wanted):
                record = alone.as_own(line.typed)
                if record.type in JOINED and id_of(record) is not None:
                    yield PositionedRecord(series.directory, position_of(line), record)
        except (DamagedLine, FileNotFoundError):
            return


def _times_of(prefix: str) -> Times:
    """Between which moments an exchange started whose id begins so: a UUIDv7 begins with its milliseconds."""
    digits = prefix.replace("-", "")[:12]
    try:
        milliseconds = int(digits.ljust(12, "0"), 16), int(digits.ljust(12, "f"), 16)
        return timestamp(milliseconds[0] * 1_000_000), timestamp(milliseconds[1] * 1_000_000 + 999_999)
    except (ValueError, OverflowError):
        return _EVER
