"""Which exchanges there are, answered from the index where a directory has one, and else from all of its journal.

    answers = Answers(directories, warn)
    answers.exchanges(filters, limit=20)     # newest last, those in flight behind them
    answers.find("019aa3f2")
    answers.close()

Both ways give the same. `tell` is told of each directory that has no index that can be used, and why. An exchange from
the index has what lists, filters and counts ask for; with `complete` it has all that the journal says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, Self

from extproc.core.outcome import Outcome
from extproc.core.times import later, moment_text
from extproc.history import feed, lookup, reader
from extproc.history.feed import Feed
from extproc.history.filters import Filters
from extproc.history.identifier import Identifier
from extproc.history.index.groups import Group
from extproc.history.index.query import Found, Index
from extproc.history.index.store import Unusable
from extproc.history.index.tail import Tail
from extproc.history.join import Exchange
from extproc.history.live_tables import LiveTables
from extproc.history.position import PositionedRecord, records_at
from extproc.journal import lines

Test = Callable[[Exchange], bool]
"""What a filter cannot say, of an exchange that is complete."""


_RECENTLY: Final = timedelta(minutes=10)


class Progress(Protocol):
    """Somebody who is told how far long work is, and to make room for what comes."""

    def __call__(self, state: str) -> None: ...
    def clear(self) -> None: ...


class _Silence:
    def __call__(self, state: str) -> None:
        pass

    def clear(self) -> None:
        pass


class Answers:
    """Of some data directories. A context manager. `progress` hears of long work, and when something is given out."""

    def __init__(
        self,
        directories: Sequence[Path],
        warn: Callable[[str], None] = lambda _: None,
        progress: Progress | None = None,
    ) -> None:
        self.tables = LiveTables()
        """What the workers' tables say, read once."""
        self._progress = progress or _Silence()
        self._directories = [_Directory(directory, warn, self._progress, self.tables) for directory in directories]
        self._of = dict(zip(directories, self._directories, strict=True))

    def close(self) -> None:
        """Let go of the files."""
        for each in self._directories:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def exchanges(
        self,
        wanted: Filters,
        *,
        test: Test | None = None,
        limit: int | None = None,
        running: bool = False,
        complete: bool = False,
    ) -> Iterator[Exchange]:
        """What the filters and the test mean; only the last of them with `limit`. `running`: what is in flight, too."""
        question = Question(wanted, test, complete)
        for exchange in self._exchanges(question, limit, running=running):
            self._progress.clear()
            yield exchange

    def _exchanges(self, question: Question, limit: int | None, *, running: bool) -> Iterable[Exchange]:
        if question.wanted.ids:
            return _last(self._named(question, running=running), limit)
        ended = [each.ended(question, limit) for each in self._directories]
        found: Iterable[Exchange] = heapq.merge(*ended, key=_started)
        if running:
            found = itertools.chain(found, self._in_flight(question))
        return _last(found, limit)

    def counted(
        self, wanted: Filters, name: str, *, test: Test | None = None, running: bool = False
    ) -> tuple[list[Group], Iterator[Exchange]]:
        """The same to be counted by a key (`index.groups`): what the indexes have counted, and the exchanges beside."""
        question = Question(wanted, test, complete=False)
        counted: list[Group] = []
        beside: list[Iterable[Exchange]] = []
        for each in self._directories if not wanted.ids and test is None else ():
            groups = each.groups(question, name)
            if groups is None:
                beside.append(each.ended(question, None))
            else:
                counted += groups[0]
                beside.append(groups[1])
        if wanted.ids or test is not None:
            return [], self.exchanges(wanted, test=test, running=running)
        if running:
            beside.append(self._in_flight(question))
        return counted, itertools.chain.from_iterable(beside)

    def ending(self, wanted: Filters, begun: datetime, stop: Callable[[], bool] = lambda: False) -> Iterator[Exchange]:
        """Each exchange as it ends, until `stop` says so: what began at `wanted.since` or later, also what has ended
        before, or else what began at `begun` or later and ends now. The filters are for the caller to apply."""
        since, until = (None if text is None else _moment(text) for text in (wanted.since, wanted.until))
        indexes = {each.directory: index for each in self._directories if (index := each.index) is not None}
        past = since is not None
        given: set[str] = set()
        if past and len(indexes) < len(self._directories):
            indexes = {}
        elif past:
            yield from self.exchanges(wanted, complete=True)
            given = {exchange.id for each in self._directories for exchange in each.recent}
        start = _Start(indexes, feed.since(moment_text(since or begun)))
        pending = [found for directory, index in indexes.items() for found in _pending(directory, index)]
        found = reader.ending(
            list(self._of), since=since or begun, until=until, stop=stop, start=start, pending=pending
        )
        for exchange in found:
            if exchange.id not in given and not _has(indexes.get(exchange.directory), exchange.id):
                yield exchange

    def index_behind_bytes(self, directory: Path) -> int | None:
        """How much of the journal the index of a directory has not; None where none can be used."""
        index = self._of[directory].index
        return (
            None if index is None else Feed([directory], feed.from_checkpoint(index.checkpoint.series)).behind_bytes()
        )

    def rows(self) -> Iterator[Found]:
        """Everything that has ended, one directory after the other, with what the index has kept of its bodies; and
        what has not ended. `whole` has the rest of each."""
        for each in self._directories:
            yield from each.rows()

    def whole(self, found: Found) -> Exchange | None:
        """All that the journal says of a row; None when it is gone."""
        return found.exchange if found.is_complete else self._of[found.exchange.directory].whole(found)

    def histogram(self, wanted: Filters, width: int) -> dict[tuple[int, str], int]:
        """How many started in each span of `width` microseconds, by the span's beginning and by outcome class."""
        found: Counter[tuple[int, str]] = Counter()
        for each in self._directories if not wanted.ids else ():
            found.update(each.histogram(Question(wanted, None, complete=False), width))
        return found

    def last_ended(self, number: int) -> list[Exchange]:
        """What ended last, in that order; without an index, of what started in the last minutes."""
        ended = [exchange for each in self._directories for exchange in each.last_ended(number)]
        return sorted(ended, key=lambda each: str(each.ended_at))[-number:]

    def in_flight(self) -> Iterator[Exchange]:
        """What has not ended, as far as the journal tells, oldest first."""
        return heapq.merge(*(each.in_flight(None) for each in self._directories), key=_started)

    def of_ids(self, ids: Collection[str]) -> list[Exchange]:
        """The exchanges with these whole ids, as far as there are any; all that the journal says of each."""
        return [exchange for each in self._directories for exchange in each.of_ids(ids)]

    def find(self, text: str) -> list[Exchange]:
        """The exchanges that are called so (see `identifier.py`), in flight or ended."""
        found = [exchange for each in self._directories for exchange in each.beginning(text)]
        return found or [exchange for each in self._directories for exchange in each.named(text)]

    def latest(self, wanted: Test) -> Exchange | None:
        """The exchange that started last of those that have ended and are wanted."""
        found = [exchange for each in self._directories if (exchange := each.latest(wanted)) is not None]
        return max(found, key=_started, default=None)

    def _in_flight(self, question: Question) -> Iterator[Exchange]:
        # Only when it is come to: what was scanned for the others is not scanned again.
        running = (each.in_flight(question) for each in self._directories)
        yield from filter(question.means, heapq.merge(*running, key=_started))

    def _named(self, question: Question, *, running: bool) -> list[Exchange]:
        found = {exchange.id: exchange for id in question.wanted.ids for exchange in self.find(id)}
        meant = (each for each in found.values() if (running or not each.in_flight) and question.means(each))
        return sorted(meant, key=lambda each: (each.in_flight, _started(each)))


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is asked for."""

    wanted: Filters
    test: Test | None
    complete: bool

    def means(self, exchange: Exchange) -> bool:
        """Whether an exchange that is complete is meant."""
        return self.wanted.matches(exchange) and (self.test is None or self.test(exchange))

    @property
    def by_columns(self) -> Filters:
        """As much of it as the columns of the index can tell."""
        return dataclasses.replace(self.wanted, params=())

    @property
    def by_more(self) -> bool:
        """Whether there is more of it."""
        return self.test is not None or bool(self.wanted.params)


class _Directory:
    """One data directory, with its index or without."""

    def __init__(self, directory: Path, warn: Callable[[str], None], progress: Progress, tables: LiveTables) -> None:
        self.directory = directory
        self._warn = warn
        self._progress = progress
        self._tables = tables
        self._index: Index | None = None
        self._tail: Tail | None = None
        self._scanned_for: Question | None = None
        self._running: list[Exchange] = []
        try:
            self._index = Index.open(directory)
            self._tail = Tail(self._index, tables)
        except Unusable as error:
            self._give_up(error)

    @property
    def index(self) -> Index | None:
        """The index, where it can be used."""
        return self._index

    @property
    def recent(self) -> Sequence[Exchange]:
        """What has ended and is in no row."""
        return () if self._tail is None else self._tail.ended

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
        self._index = self._tail = None

    def _give_up(self, why: Unusable) -> None:
        self.close()
        if lines.series(self.directory):
            self._warn(f"{self.directory}: the journal is read instead of its index: {why}")

    # What has ended --------------------------------------------------------------------------------------------

    def ended(self, question: Question, limit: int | None) -> Iterator[Exchange]:
        """By the time at which they started; with a limit it may be only the last of them."""
        if self._index is None or self._tail is None:
            yield from self._scanned(question)
            return
        given: set[str] = set()
        try:
            for exchange in self._indexed(self._index, self._tail, question, limit):
                given.add(exchange.id)
                yield exchange
        except Unusable as error:
            self._give_up(error)
            yield from (exchange for exchange in self._scanned(question) if exchange.id not in given)

    def rows(self) -> Iterator[Found]:
        """What has ended and what has not, as it stands in the index, or all of it from the journal."""
        given: set[str] = set()
        if self._index is not None and self._tail is not None:
            with self._or_by_scanning():
                for count, found in enumerate(self._index.rows(Filters()), 1):
                    self._progress(f"{count} exchanges")
                    given.add(found.exchange.id)
                    yield found
                yield from (Found(each, (), True) for each in (*self._tail.ended, *self._tail.in_flight))
                return
        for count, exchange in enumerate(reader.exchanges([self.directory]), 1):
            self._progress(f"{count} exchanges")
            if exchange.id not in given:
                yield Found(exchange, exchange.positions, True)

    def whole(self, found: Found) -> Exchange | None:
        """All that the journal says of a row."""
        if self._index is not None:
            with self._or_by_scanning():
                return self._index.whole(found)
        return lookup.at_positions(self.directory, found.positions)

    def groups(self, question: Question, name: str) -> tuple[list[Group], list[Exchange]] | None:
        """What the index has, counted, and what has ended since; None where exchanges have to be looked at."""
        if self._index is not None and self._tail is not None:
            with self._or_by_scanning():
                found = self._index.groups(question.wanted, name)
                return None if found is None else (found, list(filter(question.means, self._tail.ended)))
        return None

    def histogram(self, question: Question, width: int) -> Mapping[tuple[int, str], int]:
        """How many, by span and class: counted in the index where it can, else one by one."""
        found: Counter[tuple[int, str]] = Counter()
        exchanges: Iterable[Exchange] | None = None
        if self._index is not None and self._tail is not None:
            with self._or_by_scanning():
                rows = self._index.histogram(question.wanted, width)
                if rows is not None:
                    found.update({(start, kind): count for start, kind, count in rows})
                    exchanges = filter(question.means, self._tail.ended)
        for each in self.ended(question, None) if exchanges is None else exchanges:
            micros = round(_moment(_started(each)).timestamp() * 1e6)
            found[micros // width * width, each.class_ or Outcome.UNKNOWN.value] += 1
        return found

    def last_ended(self, number: int) -> list[Exchange]:
        """What ended last."""
        if self._index is not None and self._tail is not None:
            with self._or_by_scanning():
                return [*self._tail.ended, *self._index.last_ended(number)]
        since = moment_text(datetime.now(UTC) - _RECENTLY)
        return [*self.ended(Question(Filters(since=since), None, complete=False), None)]

    def _indexed(self, index: Index, tail: Tail, question: Question, limit: int | None) -> Iterator[Exchange]:
        recent = [exchange for exchange in tail.ended if question.means(exchange)]
        if limit is None:
            rows = self._meant(index, index.rows(question.by_columns), question)
            return heapq.merge(rows, recent, key=_started)
        newest = self._meant(index, index.rows(question.by_columns, newest_first=True), question)
        found = [*itertools.islice(newest, limit)][::-1]
        return iter(sorted([*found, *recent], key=_started)[-limit:])

    def _meant(self, index: Index, rows: Iterable[Found], question: Question) -> Iterator[Exchange]:
        for count, found in enumerate(rows, 1):
            self._progress(f"{count} exchanges")
            if not question.complete and not question.by_more:
                yield found.exchange
            elif (exchange := index.whole(found)) is not None and (not question.by_more or question.means(exchange)):
                yield exchange

    def _scanned(self, question: Question) -> Iterator[Exchange]:
        wanted = question.wanted
        last = wanted.between[1] if wanted.between else None
        until = min(filter(None, (wanted.until, last and later(last, 1e-6))), default=None)
        if wanted.between and wanted.since is None:
            first, until_then = map(_moment, wanted.between)
            found = reader.in_flight([self.directory], first, until_then, self._tables)
        else:
            since = None if wanted.since is None else _moment(wanted.since)
            found = reader.exchanges([self.directory], since=since, until=None if until is None else _moment(until))
        self._scanned_for, self._running = question, []
        for count, exchange in enumerate(found, 1):
            self._progress(f"{count} exchanges")
            if exchange.in_flight:
                self._running.append(exchange)  # they come last
            elif question.means(exchange):
                yield exchange

    # What has not ----------------------------------------------------------------------------------------------

    def in_flight(self, question: Question | None) -> Sequence[Exchange]:
        """What has not ended, oldest first; of a question that was answered by scanning, what may be meant of it."""
        if self._tail is not None:
            return self._tail.in_flight
        if question is not None and self._scanned_for == question:
            return self._running
        found = reader.in_flight([self.directory], datetime.now(UTC), tables=self._tables)
        return [each for each in found if each.in_flight]

    # By name ---------------------------------------------------------------------------------------------------

    def beginning(self, text: str) -> list[Exchange]:
        """What has an id of ours that begins so."""
        identifier = Identifier.of(text)
        if self._index is not None and self._tail is not None:
            with self._or_by_scanning():
                return self._with_tail(self._index.beginning(identifier), lambda each: identifier.begins(each.id))
        return [exchange for exchange in self.named(text) if identifier.begins(exchange.id)]

    def named(self, text: str) -> list[Exchange]:
        """What goes by this name."""
        identifier = Identifier.of(text)
        if self._index is not None and self._tail is not None:
            with self._or_by_scanning():
                return self._with_tail(self._index.named(identifier), identifier.names)
        return lookup.find([self.directory], text)

    def of_ids(self, ids: Collection[str]) -> list[Exchange]:
        """Those with these ids."""
        if self._index is not None and self._tail is not None:
            index = self._index
            with self._or_by_scanning():
                rows = [exchange for id in ids if (exchange := index.whole_by_id(id)) is not None]
                return self._with_tail(rows, lambda each: each.id in ids)
        return [each for each in reader.exchanges([self.directory]) if each.id in ids]

    def latest(self, wanted: Test) -> Exchange | None:
        """The exchange that started last of those that have ended and are wanted."""
        if self._index is not None and self._tail is not None:
            index = self._index
            with self._or_by_scanning():
                rows = (row for row in index.rows(Filters(), newest_first=True) if wanted(row.exchange))
                whole = (exchange for row in rows if (exchange := index.whole(row)) is not None)
                found = [*itertools.islice(whole, 1), *filter(wanted, self._tail.ended)]
                return max(found, key=_started, default=None)
        return reader.latest([self.directory], wanted)

    def _with_tail(self, rows: Iterable[Exchange], test: Test) -> list[Exchange]:
        assert self._tail is not None
        recent = filter(test, (*self._tail.ended, *self._tail.in_flight))
        return [*rows, *recent]

    @contextlib.contextmanager
    def _or_by_scanning(self) -> Iterator[None]:
        try:
            yield
        except Unusable as error:
            self._give_up(error)


class _Start:
    """Where to begin: where an index ends, and elsewhere as `otherwise` says."""

    def __init__(self, indexes: Mapping[Path, Index], otherwise: feed.Start) -> None:
        self._starts = {
            directory: feed.from_checkpoint(index.checkpoint.series) for directory, index in indexes.items()
        }
        self._otherwise = otherwise

    def __call__(self, series: lines.Series) -> feed.SegmentOffset:
        return self._starts.get(series.directory, self._otherwise)(series)


def _pending(directory: Path, index: Index) -> Iterator[PositionedRecord]:
    return records_at(directory, index.checkpoint.pending)


def _has(index: Index | None, id: str) -> bool:
    """Whether it was in an index from the start; one that is gone by now has been read up to its end."""
    with contextlib.suppress(Unusable):
        return index is not None and index.has(id)
    return False


def _started(exchange: Exchange) -> str:
    return exchange.started_at


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _last(exchanges: Iterable[Exchange], limit: int | None) -> Iterable[Exchange]:
    return exchanges if limit is None else deque(exchanges, maxlen=limit)
