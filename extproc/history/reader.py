"""What the journal holds, read beside a running sidecar or long after it: lines, and exchanges made of them.

What an exchange is, and how its records say it together, is in `join.py`. Records are joined by id as they are met,
across the segments of all workers. Damaged lines are passed over here; `verify.py` is who names them.

Exchanges come newest last, by the time at which they started, as far as that is possible without keeping them all:
an exchange is held back until a thousand later ones have ended and its access entry has come or is not expected any
more. What is in memory is those, never more than four thousand, and the ones in flight. An exchange in flight has
`outcome` and `ended_at` null, and comes last; with `follow` it comes when it has ended.
"""

from __future__ import annotations

import base64
import heapq
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from extproc.core.record import DamagedLine, moment_text, timestamp
from extproc.errors import JournalError
from extproc.history import alone
from extproc.history.identifier import Identifier
from extproc.history.join import ACCESS_SECONDS, JOINED, Exchange, Parts, Record, later, started_by_id
from extproc.history.tail import Tail
from extproc.journal import lines, live
from extproc.journal.directory import BODIES, SEGMENTS, reason
from extproc.journal.flight import BEGINNING, type_and_id
from extproc.journal.lines import Line, Series
from extproc.journal.segment import OPEN, Name
from extproc.journal.spool import exchange_of

_WINDOW: Final = 1000
_LIMIT: Final = 4 * _WINDOW
_REMEMBERED: Final = 10_000
_PIECE_BYTES: Final = 1024 * 1024
_POLL_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 1.5
"""How long an exchange that has ended is held back, when following, for a request record or an access entry."""
_CLOCK_SLACK_SECONDS: Final = 60
_FIRST_RECORD_SECONDS: Final = 60
"""An exchange has its first record within this time; clocks agree within the one above."""
_EVER: Final = (0.0, math.inf)

_Wanted = Callable[[str], bool]
"""Asked of an id of ours."""


# Reading -----------------------------------------------------------------------------------------------------


def scan(directories: Sequence[Path]) -> Iterator[Line]:
    """Every line of every segment, series by series in the order of writing, damaged ones too.

    Lines that were written again in a later segment, and the half line that a writer is just writing, are left out.
    """
    for directory in directories:
        for series in lines.series(directory):
            yield from (line for line in Tail(series) if line is not None)


def exchanges(
    directories: Sequence[Path],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    follow: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Exchange]:
    """The exchanges that started at `since` or later and before `until`, newest last, those in flight at the end.

    With `follow` this goes on with each exchange as it ends, until `stop` says so.
    """
    window = _Window(_text(since), _text(until))
    if follow:
        yield from _follow(directories, window, since, stop)
        return
    tails = [Tail(series, _first_segment(series, since)) for d in directories for series in lines.series(d)]
    for directory, record in merged(tails):
        if window.past(record):
            break
        yield from window.take(directory, record)
    yield from window.drain()


def in_flight(directories: Sequence[Path], at: datetime, until: datetime | None = None) -> Iterator[Exchange]:
    """The exchanges that had started and not ended at `at`, or at some moment from `at` to `until`; oldest first."""
    first, last = _text(at) or "", _text(until or at) or ""
    window = _Window(None, last, inclusive=True)
    tails = [Tail(series, _segment_with_all_of(series, at)) for d in directories for series in lines.series(d)]
    for directory, record in merged(tails):
        if window.past(record):
            break
        yield from (exchange for exchange in window.take(directory, record) if _reaches(exchange, first))
    yield from (exchange for exchange in window.drain() if _reaches(exchange, first))


def find(directories: Sequence[Path], text: str) -> list[Exchange]:
    """The exchanges that are called so (see `identifier.py`), in flight or ended. An id of ours tells its time, so
    little has to be read for its beginning; for anything else every line is looked at, and few are decoded.
    """
    wanted = Identifier.of(text)
    everything = [series for directory in directories for series in lines.series(directory)]
    times_of_own = _times_of(wanted.own)
    if times_of_own != _EVER and (found := _joined(everything, wanted.begins, times_of_own)):
        return found
    ids = {id for series in everything for id in _ids(series, wanted)}
    if not ids:
        return []
    times = [_times_of(id) for id in ids]
    between = min(earliest for earliest, _ in times), max(latest for _, latest in times)
    # An id that is none of ours by its form, or that came long after its time, takes a look everywhere.
    return _joined(everything, ids.__contains__, between) or _joined(everything, ids.__contains__, _EVER)


def latest(directories: Sequence[Path], wanted: Callable[[Exchange], bool]) -> Exchange | None:
    """The exchange that started last of those that have ended and are wanted. What is old is read when it must be."""
    now = datetime.now(UTC)
    for age in (timedelta(minutes=1), timedelta(hours=1), timedelta(days=1), None):
        found = exchanges(directories, since=None if age is None else now - age)
        ended = deque((each for each in found if not each.in_flight and wanted(each)), maxlen=1)
        if ended:
            return ended[0]
    return None


def body(exchange: Mapping[str, Any], direction: str) -> bytes | None:
    """The exact bytes of one direction's body as far as they were recorded; None when they were not."""
    if not isinstance(exchange, Exchange):
        return None
    field = exchange.body(direction)
    return None if field is None else body_bytes(field, exchange.directory)


def body_bytes(field: Mapping[str, Any], directory: Path) -> bytes:
    """The bytes that a record's `body` stands for. Raises JournalError when its file is gone or cannot be read."""
    if "text" in field:
        return str(field["text"]).encode("utf-8", "surrogatepass")
    if "base64" in field:
        return base64.b64decode(field["base64"])
    path = body_path(field, directory)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return file.read()
    except OSError as error:
        raise JournalError(f"{path}: {reason(error)}") from error


def body_pieces(exchange: Exchange, direction: str) -> Iterator[bytes]:
    """The same in pieces, for bodies that are large; none where it was not recorded. Raises JournalError likewise."""
    field = exchange.body(direction)
    if field is None:
        return
    if "file" not in field:
        yield body_bytes(field, exchange.directory)
        return
    path = body_path(field, exchange.directory)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
    except OSError as error:
        raise JournalError(f"{path}: {reason(error)}") from error


def body_path(field: Mapping[str, Any], directory: Path) -> Path:
    """The file of a spooled body. Raises JournalError for a name that the journal cannot have written."""
    name = str(field.get("file", "")).removeprefix(f"{BODIES}/")
    if exchange_of(name) is None:
        raise JournalError(f"a record refers to a body by a name that is none: {field!r}")
    return directory / BODIES / name


# In order ----------------------------------------------------------------------------------------------------


class _Window:
    """Joins records, and hands exchanges out by the time at which they started, as far as memory allows."""

    def __init__(self, since: str | None, until: str | None, *, inclusive: bool = False) -> None:
        self._since = since or ""
        self._until = f"{until}~" if until and inclusive else until or "~"
        self._long_past = later(until, _FIRST_RECORD_SECONDS) if until else "~"
        self._by_id: dict[str, Parts] = {}
        self._ended: list[tuple[str, str]] = []
        self._ended_at: dict[str, float] = {}
        self._gone: dict[str, None] = {}
        self._by_request_id: dict[str, str] = {}
        """Which of those in memory Envoy knows by this id, for entries that name none of ours."""
        self._tables: dict[Path, Mapping[str, Mapping[str, Any]]] = {}
        self._now = ""
        """The time of the latest record of an exchange: how late it is in the journal."""

    def past(self, record: Record) -> bool:
        """Whether nothing that is asked for can come any more."""
        if len(self._by_id) > len(self._ended) or record["type"] != "request":
            return False
        return str(record.get("started_at", "")) > self._long_past

    def take(self, directory: Path, record: Record) -> Iterator[Exchange]:
        """Take one record in, and give out what must not be held back any longer."""
        self.add(directory, record)
        while len(self._ended) > _WINDOW and (len(self._ended) > _LIMIT or self._settled(self._ended[0][1])):
            yield from self._give(heapq.heappop(self._ended)[1])

    def add(self, directory: Path, record: Record) -> None:
        """Take one record in."""
        record = alone.as_own(record)
        id, type = record.get("id"), record["type"]
        if not isinstance(id, str) or type not in JOINED:
            return
        self._now = max(self._now, str(record["at"]))
        if id in self._gone:
            return
        parts = self._by_id.get(id)
        if parts is None:
            if alone.stands_alone(record):
                if self._belongs_to_another(record):
                    return
            elif type not in BEGINNING:
                return
            parts = Parts(id, directory)
            if record.get("started_at") and not self._wanted(str(record["started_at"])):
                return
            self._by_id[id] = parts
        self._note_request_id(parts, record)
        if parts.add(record):
            self._ended_at[id] = time.monotonic()
            heapq.heappush(self._ended, (parts.started_at, id))

    def _belongs_to_another(self, entry: Record) -> bool:
        """Give an entry that stands alone to the exchange that it is of, where that is here and has none."""
        parts = self._by_id.get(self._by_request_id.get(str(entry.get("request_id")), ""))
        begun = None if parts is None else parts.request or parts.opened
        if parts is None or begun is None or parts.access is not None or not alone.is_of(entry, begun):
            return False
        parts.add(entry)
        return True

    def _note_request_id(self, parts: Parts, record: Record) -> None:
        """Remember it, and take over the entry that stood alone under it."""
        request_id = record.get("request_id")
        if not isinstance(request_id, str):
            return
        other = self._by_id.get(self._by_request_id.get(request_id, ""))
        self._by_request_id[request_id] = parts.id
        if other is None or other is parts or not other.is_alone or other.access is None:
            return
        if alone.is_of(other.access, record):
            parts.add(other.access)
            del self._by_id[other.id]
            self._ended = [entry for entry in self._ended if entry[1] != other.id]
            heapq.heapify(self._ended)

    def settled(self) -> Iterator[Exchange]:
        """What has ended and has waited long enough for a request record, or an access entry, that comes after."""
        waiting: list[tuple[str, str]] = []
        until = time.monotonic() - _PATIENCE_SECONDS
        while self._ended:
            entry = heapq.heappop(self._ended)
            parts = self._by_id[entry[1]]
            whole = parts.complete and not parts.is_alone and (parts.request is not None or parts.response is None)
            if not whole and self._ended_at[entry[1]] > until:
                waiting.append(entry)
            else:
                yield from self._give(entry[1])
        self._ended = waiting

    def drain(self) -> Iterator[Exchange]:
        """Everything that is left; what has not ended comes last."""
        while self._ended:
            yield from self._give(heapq.heappop(self._ended)[1])
        for parts in sorted(self._by_id.values(), key=lambda parts: parts.started_at):
            yield from self._give(parts.id)

    def _settled(self, id: str) -> bool:
        """Whether the access entry of an exchange that has ended is here, or has had its time to come."""
        parts = self._by_id[id]
        return parts.complete or self._now > later(parts.ended_at or "", ACCESS_SECONDS)

    def _wanted(self, started_at: str) -> bool:
        return self._since <= started_at < self._until

    def _give(self, id: str) -> Iterator[Exchange]:
        parts = self._by_id.pop(id)
        self._ended_at.pop(id, None)
        for record in (parts.request, parts.opened, parts.access):
            request_id = (record or {}).get("request_id")
            if self._by_request_id.get(str(request_id)) == id:
                del self._by_request_id[str(request_id)]
        self._gone[id] = None
        if len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]
        if self._wanted(parts.started_at):
            if not parts.over:
                parts.seen = self._live(parts.directory).get(id)
            yield parts.exchange(timestamp(time.time_ns()))

    def _live(self, directory: Path) -> Mapping[str, Mapping[str, Any]]:
        """What the tables of a directory say of its exchanges in flight, by id. Read once."""
        if directory not in self._tables:
            self._tables[directory] = {seen.id: seen.fields() for seen in live.read(directory)}
        return self._tables[directory]


class Source(Protocol):
    """The lines of one series, in their order."""

    directory: Path

    def begins_at(self) -> str: ...
    def __iter__(self) -> Iterator[Line | None]: ...


def merged(tails: Iterable[Source]) -> Iterator[tuple[Path, Record]]:
    """The records of several series by their time. A series is opened when its time has come."""
    queue: list[tuple[str, int, Iterator[Record] | None]] = []
    sources = list(tails)
    for index, tail in enumerate(sources):
        queue.append((tail.begins_at(), index, None))
    heapq.heapify(queue)
    while queue:
        at, index, records = queue[0]
        if records is None:
            records = _records(sources[index])
        else:
            record = next(records, None)
            if record is None:
                heapq.heappop(queue)
                continue
            yield sources[index].directory, record
            at = max(at, str(record["at"]))
        heapq.heapreplace(queue, (at, index, records))


def _records(tail: Iterable[Line | None]) -> Iterator[Record]:
    for line in tail:
        if line is not None and line.damage is None and "at" in line.record and "type" in line.record:
            yield line.record


def _follow(
    directories: Sequence[Path], window: _Window, since: datetime | None, stop: Callable[[], bool]
) -> Iterator[Exchange]:
    tails: dict[tuple[Path, int, str], Tail] = {}
    sources: dict[tuple[Path, int, str], Iterator[Line | None]] = {}
    listings = [(directory, lines.Listing(directory)) for directory in directories]
    while not stop():
        quiet = True
        for directory, listing in listings:
            for series in listing.series():
                key = (directory, series.worker, series.boot_id)
                if key not in tails:
                    tails[key] = Tail(series, _first_segment(series, since), follow=True)
                    sources[key] = iter(tails[key])
                tails[key].refresh(series)
        for key, source in sources.items():
            for line in source:
                if line is None:
                    break
                quiet = False
                if line.damage is None and "type" in line.record and "at" in line.record:
                    yield from window.take(key[0], line.record)
        yield from window.settled()
        if quiet:
            time.sleep(_POLL_SECONDS)


# Where to begin ----------------------------------------------------------------------------------------------


def _first_segment(series: Series, since: datetime | None) -> int:
    """The position of the first segment that can hold a record of this time or later."""
    if since is None:
        return 0
    earliest = since.timestamp() - _CLOCK_SLACK_SECONDS
    for position, name in enumerate(series.names):
        if _written_until(series.directory, name) >= earliest:
            return position
    return len(series.names)


def _segment_with_all_of(series: Series, at: datetime) -> int:
    """The position of a segment from which on everything stands that was in flight at a moment."""
    position = _begun_before(series, _text(at) or "")
    head = lines.header(series.directory, series.names[position])
    if head is None:
        return 0
    carried = [started_by_id(id) for id, had in (head.get("in_flight") or {}).items() if had != "response"]
    if not carried:
        return position
    # A second of slack: an id has milliseconds only, and a segment may begin right after the record.
    oldest = min(carried)
    return min(position, _begun_before(series, later(oldest, -1))) if oldest else 0


def _begun_before(series: Series, at: str) -> int:
    found = 0
    for position, name in enumerate(series.names):
        head = lines.header(series.directory, name)
        if head is not None and str(head.get("at", "")) > at:
            break
        found = position
    return found


def _written_until(directory: Path, name: Name) -> float:
    """When a segment was written last; no end for one that has been renamed or may be growing."""
    if name.state == OPEN:
        return math.inf
    try:
        return (directory / SEGMENTS / str(name)).stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _joined(everything: Sequence[Series], wanted: _Wanted, times: tuple[float, float]) -> list[Exchange]:
    """The exchanges with such ids that started between two moments."""
    found: dict[str, Parts] = {}
    for series in everything:
        _find(series, wanted, times, found)
    _find_entries(everything, times, found)
    now = timestamp(time.time_ns())
    return [parts.exchange(now) for parts in found.values() if parts.began]


def _find(series: Series, wanted: _Wanted, times: tuple[float, float], found: dict[str, Parts]) -> None:
    """Add what one series has of the exchanges with such ids; an access record may be in another one."""
    earliest, latest = times
    for name in series.names:
        if _written_until(series.directory, name) < earliest - _CLOCK_SLACK_SECONDS:
            continue
        if all(parts.over for parts in found.values()) and _begins_after(series, name, latest):
            break
        for record in _records_with(series, name, lambda raw: alone.may_be(raw) or wanted(type_and_id(raw)[1])):
            id = str(record["id"])
            if not wanted(id):  # it stood behind another one, on a line whose end was lost
                continue
            parts = found.setdefault(id, Parts(id, series.directory))
            if record["type"] in BEGINNING:
                parts.directory = series.directory  # where its bodies are
            parts.add(record)


def _find_entries(everything: Sequence[Series], times: tuple[float, float], found: dict[str, Parts]) -> None:
    """Give exchanges without an entry those that stand alone and are theirs."""
    waiting = {
        begun["request_id"]: parts
        for parts in found.values()
        if parts.access is None and (begun := parts.request or parts.opened or {}).get("request_id")
    }
    earliest, _ = times
    for series in everything if waiting else ():
        for name in series.names:
            if _written_until(series.directory, name) < earliest - _CLOCK_SLACK_SECONDS:
                continue
            for entry in _records_with(series, name, alone.may_be):
                parts = waiting.get(entry.get("request_id"))
                if parts is not None and alone.is_of(entry, parts.request or parts.opened or {}):
                    parts.add(entry)
                    found.pop(str(entry["id"]), None)


def _ids(series: Series, wanted: Identifier) -> Iterator[str]:
    """The ids of the exchanges in one series that are called so."""
    for name in series.names:
        for record in _records_with(series, name, lambda raw: alone.may_be(raw) or wanted.may_name(raw)):
            if wanted.names_record(record):
                yield str(record["id"])


def _records_with(series: Series, name: Name, wanted: Callable[[bytes], bool]) -> Iterator[Record]:
    """The records of exchanges in the lines that are wanted; only those are decoded."""
    try:
        with lines.open_segment(series.directory, name) as file:
            for raw in lines.raw_lines(file):
                if wanted(raw):
                    for line in lines.parse(name, 0, 0, raw):
                        record = alone.as_own(line.record)
                        if record.get("type") in JOINED and isinstance(record.get("id"), str):
                            yield record
    except (DamagedLine, FileNotFoundError):
        return


def _begins_after(series: Series, name: Name, latest: float) -> bool:
    head = lines.header(series.directory, name)
    if head is None:
        return False
    begins = datetime.fromisoformat(str(head["at"])).timestamp()
    return begins > latest + _FIRST_RECORD_SECONDS


# Times ---------------------------------------------------------------------------------------------------------


def _times_of(prefix: str) -> tuple[float, float]:
    """Between which moments an exchange started whose id begins so: a UUIDv7 begins with its milliseconds."""
    digits = prefix.replace("-", "")[:12]
    try:
        return int(digits.ljust(12, "0"), 16) / 1000, int(digits.ljust(12, "f"), 16) / 1000
    except ValueError:
        return _EVER


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)


def _reaches(exchange: Exchange, first: str) -> bool:
    return exchange["ended_at"] is None or exchange["ended_at"] >= first
