"""The index, read: beside the follower that writes it, or long after.

    index = Index.open(directory)       # Unusable, when there is none that can be used
    index.checkpoint                    # what came after that is not in it
    for found in index.rows(filters):   # oldest first
        found.exchange                  # what lists and filters ask for
            found.told                  # what its bodies tell, as far as it was kept (`told.py`)
    index.whole(found)              # all that the journal says of it
    index.close()

What is in it when it is opened is all that is given: what is added since stands after the checkpoint, where its reader
looks as well. No transaction is open while somebody reads a page: the follower's log of changes would grow meanwhile.
Who needs what is counted in it as it was then (`precedents.py`), and has done with it soon, opens it `still`.
Any call but `close` may raise Unusable.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

import msgspec

from extproc.history import lookup
from extproc.history.filters import Filters
from extproc.history.identifier import SHORTEST, Identifier
from extproc.history.index import conditions, groups, row, schema, served, store
from extproc.history.index.conditions import Conditions
from extproc.history.index.groups import Group
from extproc.history.index.store import Checkpoint, Positions, Segment, Unusable
from extproc.history.index.told import NOTHING, Atoms, Told
from extproc.history.join import Exchange
from extproc.history.position import RecordReader
from extproc.journal import lines
from extproc.journal.directory import reason

_FIRST_PAGE: Final = 50
_PAGE: Final = 500
_COLUMNS: Final = f"n, {', '.join(schema.COLUMNS)}"
_STARTED, _WHOLE, _SEGMENT, _POSITIONS, _STREAMED, _MESSAGE, _ASKED = (
    1 + schema.COLUMNS.index(name)
    for name in ("started", "whole", "segment", "positions", "streamed", "message", "asked")
)
_ASKED_PAGE: Final = 500
_BUSY_SECONDS: Final = 2.0
_CACHE_KIB: Final = 16 * 1024
"""Of what is looked for by a word, a page is read for its times and again for its rows."""
_WORD_FACTOR: Final = 4
"""Rows that are found by a word have to be sorted: it is worth it where they are so many times fewer than all."""
_GLANCE: Final = 1000
"""So many rows are looked through as quickly as a list of those with a word is begun."""
_MOST_COUNTED: Final = 200_000
_NEAR: Final = 50_000
_LAST_TIME: Final = 2**62
_DIGITS: Final = 32
_MIRRORED: Final = 12
_NOT_WHOLE: Final = "whole = 0"
_NEXT_END: Final = (
    "SELECT outcome, class, started FROM exchanges INDEXED BY by_outcome"
    " WHERE (outcome, class, started) >= (?, ?, ?) AND n <= ? ORDER BY outcome, class, started LIMIT 1"
)
_OF_SPAN: Final = "outcome = ? AND class = ? AND started >= ? AND started < ?"
_CALLED: Final = f"({schema.NAME} = substr(?1, -4) AND request_id = ?1 OR response_id = ?2) AND n <= ?3"
_OF_ID: Final = "SELECT id, positions FROM exchanges"

Row = tuple[Any, ...]


class Found(NamedTuple):
    """A row. `exchange` has what the columns say, or, of a row that is not whole, all that the journal says."""

    exchange: Exchange
    positions: Positions
    is_complete: bool
    told: Told = NOTHING
    streamed: bool = False
    """The answer came as events."""


class Index:
    """The index of one directory, opened for reading."""

    def __init__(self, directory: Path, database: sqlite3.Connection, *, still: bool = False) -> None:
        self.directory = directory
        self._database = database
        self._records = RecordReader(directory)
        self._asked: dict[int, bytes | Atoms] = {}
        self._asked_pages: set[int] = set()
        self._atoms: dict[int, tuple[str, str]] | None = None
        with _reading():
            database.execute("BEGIN")
            self.checkpoint: Checkpoint = store.check(database)
            if store.lacking(database):
                raise Unusable("it is being made, or was not to its end")
            self._last: int = database.execute("SELECT coalesce(max(n), 0) FROM exchanges").fetchone()[0]
            self.words: dict[int, str] = dict(database.execute("SELECT n, text FROM texts"))
            self._segments: dict[int, Segment] = {
                n: (series, number) for n, series, number in database.execute("SELECT n, series, number FROM segments")
            }
            if not still:
                database.execute("COMMIT")
        self._texts: dict[int | None, str | None] = {None: None, **dict(self.words.items())}
        self._deleted = self._deleted_segments()

    @classmethod
    def open(cls, directory: Path, *, still: bool = False) -> Self:
        """Open the index of a data directory. Raises Unusable."""
        database = _connect(directory)
        try:
            return cls(directory, database, still=still)
        except Unusable:
            database.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Rows ----------------------------------------------------------------------------------------------------

    def rows(self, wanted: Filters, *, newest_first: bool = False) -> Iterator[Found]:
        """What the filters mean, but for `ids`, by the time at which it started."""
        asked = conditions.of(wanted, self.words)
        with _reading():
            found: list[Iterator[Row]] = [
                self._numbered(self._undated()),
                self._numbered(self._far(asked), asked),
                self._near(asked, newest_first=newest_first),
            ]
            if newest_first:
                found = [found[2], *(reversed(list(each)) for each in found[1::-1])]
            for values in itertools.chain.from_iterable(found):
                made = self._found(values)
                if made is not None and ((asked.exact and not made.is_complete) or wanted.matches(made.exchange)):
                    yield made

    def groups(self, wanted: Filters, name: str) -> list[Group] | None:
        """All that is meant, counted by a key of `groups.EXPRESSIONS`; None where that takes more than the columns."""
        asked = conditions.of(wanted, self.words)
        with _reading():
            if not asked.exact or self._deleted or self._rows(f"SELECT 1 FROM exchanges WHERE {_NOT_WHOLE} LIMIT 1"):
                return None
            nothing = next((number for number, text in self.words.items() if not text), 0)
            key = groups.EXPRESSIONS[name].replace(":nothing", str(nothing))
            terms, parameters = asked.span
            rows = self._database.execute(
                f"SELECT {key}, outcome, status, grpc_status, duration, first_token, failed_attempts FROM exchanges"
                f" WHERE {terms} AND {asked.sql} AND n <= ?",
                (*parameters, *asked.parameters, self._last),
            )
            return self._grouped(rows, groups.shown(name, self.words))

    def histogram(self, wanted: Filters, width: int) -> list[tuple[int, str, int]] | None:
        """How many of what is meant started in each span of so many microseconds, by outcome class: the span's
        beginning, the class, the number. None where that takes more than the columns."""
        asked = conditions.of(wanted, self.words)
        with _reading():
            if not asked.exact or self._deleted or self._rows(f"SELECT 1 FROM exchanges WHERE {_NOT_WHOLE} LIMIT 1"):
                return None
            if asked.of_ends:
                return [(start, self.words[kind], count) for start, kind, count in self._ends(asked, width)]
            terms, parameters = asked.span
            rows = self._rows(
                f"SELECT started / ? * ?, class, count(*) FROM exchanges WHERE {terms} AND {asked.sql} AND n <= ?"
                " GROUP BY 1, 2",
                *(width, width, *parameters, *asked.parameters, self._last),
            )
            return [(start, self.words[kind], count) for start, kind, count in rows]

    def _ends(self, asked: Conditions, width: int) -> Iterator[tuple[int, int, int]]:
        """How many, by span, outcome and class. Where there is nothing, nothing is looked at: from each span that has
        some it goes to the next that has."""
        since = -_LAST_TIME if asked.since is None else asked.since
        until = _LAST_TIME if asked.until is None else asked.until
        count = f"SELECT count(*) FROM exchanges INDEXED BY by_outcome WHERE {_OF_SPAN} AND {asked.sql} AND n <= ?"
        at = 0, 0, since
        while found := self._rows(_NEXT_END, *at, self._last):
            outcome, kind, started = found[0]
            start = started // width * width
            first, last = max(start, since), min(start + width, until)
            at = (outcome, kind, last) if started < last else (outcome, kind + 1, since)
            if since <= started < last:
                number = self._one(count, outcome, kind, first, last, *asked.parameters, self._last)
                if number:
                    yield start, kind, number
            elif started < since:
                at = outcome, kind, since

    def alike(self, beginning: bytes, started_at: str, most: int) -> list[Found]:
        """Conversations that began so, the nearest of them to a time by the order in which they ended: as far as they
        are among the 50,000 before it, and as many after it."""
        with _reading():
            at = row.micros(started_at) or 0
            sql = "SELECT n FROM exchanges INDEXED BY by_time WHERE started <= ? ORDER BY started DESC LIMIT 1"
            (here,) = self._all(sql, at) or (0,)
            numbers = self._all(
                "SELECT n FROM exchanges WHERE n BETWEEN ? AND ? AND conversation = ? ORDER BY abs(n - ?) LIMIT ?",
                *(here - _NEAR, min(here + _NEAR, self._last), beginning, here, most),
            )
            return list(self.numbered(numbers))

    def last_ended(self, number: int) -> list[Exchange]:
        """What became final last, the last one first: rows come in that order."""
        with _reading():
            rows = self._rows(
                f"SELECT {_COLUMNS} FROM exchanges WHERE n <= ? ORDER BY n DESC LIMIT ?", self._last, number
            )
            return [found.exchange for values in rows if (found := self._found(values)) is not None]

    def _grouped(self, rows: Iterable[Row], shown: Callable[[Any], str | None]) -> list[Group]:
        found: dict[Row, Group] = {}
        for key, outcome, status, grpc_status, duration, first_token, failed_attempts in rows:
            group = found.get((key, outcome, status, grpc_status))
            if group is None:
                said = self.words[outcome], status, None if grpc_status is None else self.words[grpc_status]
                group = found[key, outcome, status, grpc_status] = Group(shown(key), *said)
            group.add(duration, first_token, failed_attempts)
        return list(found.values())

    def whole(self, found: Found) -> Exchange | None:
        """All that the journal says of it; None when it is gone."""
        if found.is_complete:
            return found.exchange
        return self._exchange(found.positions)

    def _found(self, values: Row) -> Found | None:
        positions = store.unpacked(values[_POSITIONS], self._segments)
        is_gone = bool(self._deleted) and any(position[:2] in self._deleted for position in positions)
        if values[_WHOLE] and not is_gone:
            series, _ = self._segments[values[_SEGMENT]]
            exchange = row.exchange(values[1:], self._texts.__getitem__, series, self.directory)
            told = Told(self.atoms(values[_ASKED]), values[_MESSAGE])
            return Found(exchange, positions, False, told, bool(values[_STREAMED]))
        found = self._exchange(positions)
        return None if found is None else Found(found, positions, True)

    def _exchange(self, positions: Positions) -> Exchange | None:
        return lookup.at_positions(self.directory, positions, self._records)

    def whole_by_id(self, id: str) -> Exchange | None:
        """All that the journal says of the exchange with this id; None where it has no row."""
        with _reading():
            rows = self._rows(f"{_OF_ID} WHERE id = ? AND n <= ?", row.packed_id(id), self._last)
            return self._exchange(store.unpacked(rows[0][1], self._segments)) if rows else None

    # What requests ask for -----------------------------------------------------------------------------------------

    def atoms(self, number: int | None) -> Atoms | None:
        """What stands in a row for what its request asks for; the same object for the same number."""
        if number is None:
            return None
        page = number // _ASKED_PAGE
        if page not in self._asked_pages:
            # Rows of a time have numbers that lie together. What was added since has some that no row of ours has.
            self._asked_pages.add(page)
            first = page * _ASKED_PAGE
            self._asked.update(
                self._rows("SELECT n, atoms FROM asked WHERE n >= ? AND n < ?", first, first + _ASKED_PAGE)
            )
        packed = self._asked.get(number)
        if isinstance(packed, bytes):
            packed = self._asked[number] = dict(map(self._unpacked, served.unpacked(packed)))
        return packed

    def _unpacked(self, atom: served.Packed) -> tuple[str, str]:
        return self.atom(atom) if isinstance(atom, int) else (self.atom(atom[0])[0], atom[1])

    def atom(self, number: int) -> tuple[str, str]:
        """A place, and what stands there."""
        if self._atoms is None:
            self._atoms = {n: tuple(json.loads(text)) for n, text in self._database.execute("SELECT * FROM atoms")}
        return self._atoms[number]

    # Which rows ------------------------------------------------------------------------------------------------

    def _undated(self) -> list[int]:
        """Those whose time is none that we could read: they are all looked at."""
        return self._all("SELECT n FROM exchanges WHERE whole = 0 AND started = 0 AND n <= ?", self._last)

    def _far(self, asked: Conditions) -> list[int]:
        """Of what was in flight in a time: those that had begun long before it."""
        if asked.between is None:
            return []
        first, _ = asked.between
        terms, parameters = asked.span
        return self._all(
            f"SELECT n FROM exchanges INDEXED BY long WHERE lasted > {schema.LONG_US} AND started < ?"
            f" AND started + lasted >= ? AND {terms} AND n <= ? ORDER BY started, n",
            first - schema.LONG_US,
            first,
            *parameters,
            self._last,
        )

    def _near(self, asked: Conditions, *, newest_first: bool) -> Iterator[Row]:
        if asked.between is not None:
            near = asked.between[0] - schema.LONG_US
            asked.since = near if asked.since is None else max(near, asked.since)
        oldest = self._oldest(asked)
        numbers = self._by_word(asked, oldest, newest_first=newest_first)
        if numbers is not None:
            return self._numbered(numbers[::-1] if newest_first else numbers, asked)
        return self._by_time(asked, oldest, newest_first=newest_first)

    def _oldest(self, asked: Conditions) -> int:
        """No row with a smaller number is meant: rows come as exchanges end, so that those of a time are together."""
        if asked.since is None:
            return 0
        terms, parameters = asked.span
        # Without a word SQLite would look for the smallest number in the table itself, from its beginning on.
        sql = f"SELECT coalesce(min(n), 0) FROM exchanges INDEXED BY by_time WHERE {terms}"
        return int(self._one(sql, *parameters))

    def _by_word(self, asked: Conditions, oldest: int, *, newest_first: bool) -> list[int] | None:
        """The numbers of what has a word that few have, by time; None where looking through the time is quicker."""
        if not asked.by:
            return None
        terms, parameters = asked.span
        of_time = self._count(terms, parameters)
        counts = [(self._count(f"{term} AND n >= ?", [*words, oldest]), term, words) for term, words in asked.by]
        count, term, words = min(counts)
        if count >= _MOST_COUNTED or (
            count * count > _GLANCE * of_time if newest_first else count * _WORD_FACTOR > of_time
        ):
            return None
        return self._all(
            f"SELECT n FROM (SELECT n, started FROM exchanges WHERE {term} AND n BETWEEN ? AND ? AND {terms}"
            f" UNION SELECT n, started FROM exchanges WHERE whole = 0 AND started > 0 AND n <= ? AND {terms})"
            " ORDER BY started, n",
            *words,
            oldest,
            self._last,
            *parameters,
            self._last,
            *parameters,
        )

    def _by_time(self, asked: Conditions, oldest: int, *, newest_first: bool) -> Iterator[Row]:
        terms, parameters = asked.span
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        sql = (
            f"SELECT {_COLUMNS} FROM exchanges INDEXED BY by_time WHERE {terms} AND started > 0"
            f" AND (started, n) {beyond} (?, ?) AND n BETWEEN ? AND ? AND (whole = 0 OR ({asked.sql}))"
            f" ORDER BY started {order}, n {order} LIMIT ?"
        )
        at = (_LAST_TIME, 0) if newest_first else (0, 0)
        page = _FIRST_PAGE
        while True:
            rows = self._rows(sql, *parameters, *at, oldest, self._last, *asked.parameters, page)
            yield from rows
            if len(rows) < page:
                return
            at, page = (rows[-1][_STARTED], rows[-1][0]), _PAGE

    def _numbered(self, numbers: Sequence[int], asked: Conditions | None = None) -> Iterator[Row]:
        """The rows of these numbers, as far as they are meant, in this order."""
        for start in range(0, len(numbers), _PAGE):
            some = numbers[start : start + _PAGE]
            terms = "1" if asked is None else f"(whole = 0 OR ({asked.sql}))"
            sql = f"SELECT {_COLUMNS} FROM exchanges WHERE n IN ({','.join(map(str, some))}) AND {terms}"
            found = {each[0]: each for each in self._rows(sql, *(asked.parameters if asked else ()))}
            yield from (found[number] for number in some if number in found)

    def _count(self, terms: str, parameters: Sequence[Any]) -> int:
        sql = f"SELECT count(*) FROM (SELECT 1 FROM exchanges WHERE {terms} LIMIT {_MOST_COUNTED})"
        return int(self._one(sql, *parameters))

    # By name ---------------------------------------------------------------------------------------------------

    def beginning(self, identifier: Identifier) -> Iterator[Exchange]:
        """What has an id of ours that begins so: all that the journal says of it."""
        bounds = _beginning(identifier.own)
        with _reading():
            rows = (
                []
                if bounds is None
                else self._rows(f"{_OF_ID} WHERE id BETWEEN ? AND ? AND n <= ?", *bounds, self._last)
            )
            yield from self._named([*rows, *self._odd_ids()], lambda each: identifier.begins(each.id))

    def named(self, identifier: Identifier) -> Iterator[Exchange]:
        """The same of what goes by this name, be it the end of an id of ours, or an id of others'."""
        with _reading():
            rows = self._odd_ids()
            bounds = _end(identifier.own)
            if bounds is not None:
                rows += self._rows(f"{_OF_ID} WHERE mirror BETWEEN ? AND ? AND n <= ?", *bounds, self._last)
            for other in sorted(identifier.others):
                rows += self._rows(
                    f"{_OF_ID} WHERE {_CALLED}",
                    row.packed_id(other),
                    row.hashed(other),
                    self._last,
                )
            yield from self._named(rows, identifier.names)

    def has(self, id: str) -> bool:
        """Whether there is a row for this id."""
        with _reading():
            return bool(self._rows("SELECT 1 FROM exchanges WHERE id = ? AND n <= ?", row.packed_id(id), self._last))

    def stored(self, id: str) -> dict[str, Any] | None:
        """What stands in the row of an exchange, as it stands there, but for its positions."""
        with _reading():
            found = self._rows(
                f"SELECT {_COLUMNS} FROM exchanges WHERE id = ? AND n <= ?", row.packed_id(id), self._last
            )
            if not found:
                return None
            values = dict(zip(schema.COLUMNS, found[0][1:], strict=True))
            return values | {"positions": store.unpacked(values["positions"], self._segments)}

    def select(self, sql: str, *parameters: Any) -> list[Row]:
        """For `precedents.py`, which asks otherwise than lists do."""
        with _reading():
            return self._rows(sql, *parameters)

    def is_miscounted(self) -> bool:
        """Whether what was served is counted otherwise than the rows say."""
        with _reading():
            self._database.execute("BEGIN")
            try:
                return served.miscounted(self._database)
            finally:
                self._database.execute("COMMIT")

    def numbered(self, numbers: Sequence[int]) -> Iterator[Found]:
        """The rows of these numbers, in this order."""
        with _reading():
            for values in self._numbered(numbers):
                if (made := self._found(values)) is not None:
                    yield made

    def count(self) -> int:
        """How many rows there are."""
        with _reading():
            return int(self._one("SELECT count(*) FROM exchanges WHERE n <= ?", self._last))

    def _odd_ids(self) -> list[Row]:
        """Rows whose id is no UUID: texts stand before bytes."""
        return self._rows(f"{_OF_ID} WHERE id >= '' AND id < x'' AND n <= ?", self._last)

    def _named(self, rows: Iterable[Row], test: Callable[[Exchange], bool]) -> Iterator[Exchange]:
        for _, positions in sorted(set(rows), key=str):
            exchange = self._exchange(store.unpacked(positions, self._segments))
            if exchange is not None and test(exchange):
                yield exchange

    # Reading ---------------------------------------------------------------------------------------------------

    def _rows(self, sql: str, *parameters: Any) -> list[Row]:
        return self._database.execute(sql, parameters).fetchall()

    def _all(self, sql: str, *parameters: Any) -> list[int]:
        return [n for (n,) in self._database.execute(sql, parameters)]

    def _one(self, sql: str, *parameters: Any) -> Any:
        return self._database.execute(sql, parameters).fetchone()[0]

    def _deleted_segments(self) -> frozenset[Segment]:
        """Those that rows have records in, and that are gone: the rows go soon."""
        there = {
            (f"w{series.worker}-{series.boot_id}", name.number)
            for series in lines.series(self.directory)
            for name in series.names
        }
        return frozenset(set(self._segments.values()) - there)


def _beginning(own: str) -> tuple[bytes, bytes] | None:
    """Between which bytes a UUID is that begins so; None where none can."""
    digits = own.replace("-", "")
    try:
        first, last = bytes.fromhex(digits.ljust(_DIGITS, "0")), bytes.fromhex(digits.ljust(_DIGITS, "f"))
    except ValueError:
        return None
    return (first, last) if row.unpacked_id(first).startswith(own) else None


def _end(own: str) -> tuple[int, int] | None:
    """Between which numbers the mirror of a UUID is that ends so; None where none can."""
    digits = own[-_MIRRORED:][::-1]
    if len(own) < SHORTEST or not set(digits) <= set("0123456789abcdef"):
        return None
    return int(digits.ljust(_MIRRORED, "0"), 16), int(digits.ljust(_MIRRORED, "f"), 16)


def _connect(directory: Path) -> sqlite3.Connection:
    """A connection that writes nothing. Raises Unusable."""
    path = store.path_of(directory)
    try:
        store.regular(path)
    except FileNotFoundError:
        raise Unusable("there is none") from None
    except OSError as error:
        raise Unusable(reason(error)) from error
    try:
        return _connected(path, "mode=ro")
    except sqlite3.Error as error:
        # Where nothing can be written, SQLite cannot agree with a writer. There is none that matters when all that it
        # has written is in the file itself.
        wal = Path(f"{path}-wal")
        if wal.exists() and wal.stat().st_size:
            raise Unusable(f"it cannot be read: {error}") from error
    try:
        return _connected(path, "mode=ro&immutable=1")
    except sqlite3.Error as error:
        raise Unusable(f"it cannot be read: {error}") from error


def _connected(path: Path, how: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{how}"
    database = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
    try:
        database.execute("PRAGMA cell_size_check = ON")
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        database.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error:
        database.close()
        raise
    return database


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """What SQLite finds wrong makes the index unusable."""
    try:
        yield
    except (sqlite3.Error, LookupError, ValueError, TypeError, msgspec.MsgspecError) as error:
        raise Unusable(f"it is damaged: {error}") from error
