"""The file of the index, written by the one follower of a data directory.

    store = Store.open(directory)
    store.checkpoint                    # how far the journal has been read; of a new index nowhere
    store.put(exchange, told)           # a row, or the row of that id anew
    store.commit(checkpoint)            # all of that, and how far the journal has been read, or nothing

    erase(directory, ids)               # by whoever erases exchanges from the journal, beside the follower

A store that cannot be what we wrote (damaged, another version's, none of ours) is deleted when it is opened. Every
method may raise `sqlite3.Error`, and `open` an OSError or a JournalError; after that only `close` may be called.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

import msgspec

from extproc.history.index import row, schema, served
from extproc.history.index.told import NOTHING, Atoms, Told, constrains
from extproc.history.join import Exchange
from extproc.history.position import RecordPosition
from extproc.journal.directory import open_directory

Positions = Sequence[RecordPosition]
Segment = tuple[str, int]
"""A series and the number of one of its segments."""

_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
_CACHE_KIB: Final = 8 * 1024
"""Pages in memory; the follower keeps as many for as long as it runs. The system's own cache has the rest."""
_REMEMBERED: Final = 20_000
"""Of what whole requests ask for: one like the last ones has its number from here."""
_BUSY_SECONDS: Final = 5.0
_PAGE: Final = 500

_pack = msgspec.msgpack.Encoder().encode

_PUT: Final = (
    f"INSERT INTO exchanges ({', '.join(schema.COLUMNS)}) VALUES ({', '.join('?' * len(schema.COLUMNS))})"
    f" ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in schema.COLUMNS)}"
)
_STRADDLES: Final = "INSERT OR IGNORE INTO straddling SELECT ?, n FROM exchanges WHERE id = ?"
_NOT_STRADDLING: Final = "DELETE FROM straddling WHERE exchange = (SELECT n FROM exchanges WHERE id = ?)"
_OVER_THE_EDGE: Final = (
    "SELECT id, positions FROM exchanges WHERE segment = ?"
    " UNION SELECT id, positions FROM straddling JOIN exchanges ON n = exchange WHERE straddling.segment = ?"
)
"""The exchanges that have records in a segment, whichever of them is theirs."""


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a journal has been read: of each series the segment and the offset of the next line, and the positions of
    the records of exchanges that were not final then."""

    series: dict[str, tuple[int, int]] = {}
    pending: list[RecordPosition] = []


class Unusable(Exception):
    """The file is no index that we can use. The text says why."""


def path_of(directory: Path) -> Path:
    """Where the index of a data directory is."""
    return directory / schema.FILE_NAME


def delete(directory: Path) -> None:
    """Delete the index, whatever it is. Raises OSError."""
    path = path_of(directory)
    for end in (*_SIDE_FILES, ""):
        Path(f"{path}{end}").unlink(missing_ok=True)


def erase(directory: Path, ids: Iterable[str], busy_seconds: float = _BUSY_SECONDS) -> int:
    """Delete the rows of these exchanges, and what the file held of them. To be called when the journal holds nothing
    of them any more, beside a follower or without one. How many there were.

    What is left of them are words that others may share (a model, the mark of a key). An index that cannot be used is
    deleted as a whole, and made anew from the journal. Raises OSError, or sqlite3.Error when a reader did not let go of
    the file in time: call it again then.
    """
    try:
        regular(path_of(directory))
        database = _connect(path_of(directory), busy_seconds)
    except FileNotFoundError:
        return 0
    except (Unusable, sqlite3.Error):
        delete(directory)
        return 0
    try:
        check(database)
        with _transaction(database):
            gone = sum([_erase(database, id) for id in ids])
            _erase_atoms(database)
        (busy, _, _) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError(f"{path_of(directory)} is being read: what was deleted is still in its log")
    except Unusable:
        delete(directory)
        return 0
    finally:
        database.close()
    return gone


def _erase(database: sqlite3.Connection, id: str) -> int:
    packed = (row.packed_id(id),)
    served.take(database, "id = ?", packed)
    database.execute(_NOT_STRADDLING, packed)
    return database.execute("DELETE FROM exchanges WHERE id = ?", packed).rowcount


def _erase_atoms(database: sqlite3.Connection) -> None:
    """Blot out what no request has asked for that has a row still. Their numbers stay: a follower goes on with them."""
    asked = "SELECT asked FROM exchanges WHERE asked IS NOT NULL"
    database.execute(f"DELETE FROM asked WHERE n NOT IN ({asked})")
    packed = database.execute("SELECT atoms FROM asked")
    kept = {number for (atoms,) in packed for number in served.numbers(atoms)}
    gone = [(number,) for (number,) in database.execute("SELECT n FROM atoms") if number not in kept]
    database.executemany('UPDATE atoms SET text = \'["erased",""]\' WHERE n = ?', gone)


def check(database: sqlite3.Connection) -> Checkpoint:
    """How far the index goes. Raises Unusable for what is none, or another version's."""
    try:
        (application,), (version,) = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if application != schema.APPLICATION_ID:
            raise Unusable("it is no index of ours")
        if version != schema.VERSION:
            raise Unusable(f"it is of version {version}, and ours is {schema.VERSION}")
        (position,) = database.execute("SELECT position FROM meta").fetchone()
        return msgspec.msgpack.decode(position, type=Checkpoint)
    except (sqlite3.DatabaseError, msgspec.MsgspecError, TypeError, ValueError) as error:
        raise Unusable(f"it is damaged: {error}") from None


def lacking(database: sqlite3.Connection) -> list[str]:
    """The names of the `schema.INDEXES` that are not there yet: not all of the journal has been read."""
    there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    return [name for name in schema.INDEXES if name not in there]


class _Words(dict[str | None, int | str | None]):
    """Texts by their numbers. One that is met for the first time has the next one, where there is room for it."""

    def __init__(self, known: Iterable[tuple[str, int]]) -> None:
        super().__init__(known)
        self[None] = None
        self.new: list[tuple[str, int]] = []

    def __missing__(self, text: str | None) -> int | None:
        number = len(self)
        if text is None or number > schema.MOST_TEXTS or not row.holds(text):
            return None
        self[text] = number
        self.new.append((text, number))
        return number


class Store:
    """The opened file."""

    def __init__(
        self,
        database: sqlite3.Connection,
        checkpoint: Checkpoint,
        file: tuple[int, int],
        most_values: int,
    ) -> None:
        self.checkpoint = checkpoint
        self._database = database
        self._file = file
        self._words = _Words(database.execute("SELECT text, n FROM texts"))
        self._atoms: dict[tuple[str, str], int] = {
            tuple(msgspec.json.decode(text)): n for n, text in database.execute("SELECT n, text FROM atoms")
        }
        self._new_atoms: list[tuple[int, str]] = []
        self._values = Counter(place for place, _ in self._atoms)
        self._most_values = most_values
        self._asked: dict[bytes, int] = {}
        self._new_asked: list[tuple[int, bytes]] = []
        self._packed: dict[int, bytes] = {}
        """What the rows that were put and not yet committed ask for."""
        (self._last_asked,) = database.execute("SELECT coalesce(max(n), 0) FROM asked").fetchone()
        self._swept_asked: int = self._last_asked
        self._segments: dict[Segment, int] = {
            (series, number): n for series, number, n in database.execute("SELECT series, number, n FROM segments")
        }
        self._new_segments: list[tuple[int, str, int]] = []
        self._next_segment = max(self._segments.values(), default=0) + 1
        self._lacking = lacking(database)
        self._rows: dict[str, row.Values] = {}
        self._straddling: list[tuple[int, bytes | str | None]] = []

    @classmethod
    def open(cls, directory: Path, *, most_values: int = schema.MOST_VALUES) -> Self:
        """The index of a data directory, made where there is none that can be used."""
        os.close(open_directory(directory))
        try:
            return cls._opened(directory, most_values)
        except (Unusable, FileNotFoundError):
            delete(directory)
            return cls._made(directory, most_values)

    @classmethod
    def _opened(cls, directory: Path, most_values: int) -> Self:
        path = path_of(directory)
        file = regular(path)
        database = _connect(path)
        try:
            store = cls(database, check(database), file, most_values)
        except sqlite3.DatabaseError as error:
            database.close()
            raise Unusable(str(error)) from error
        except Unusable:
            database.close()
            raise
        return store

    @classmethod
    def _made(cls, directory: Path, most_values: int) -> Self:
        path = path_of(directory)
        # It has its mode before it holds anything; SQLite gives its other files the same one.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        database = _connect(path)
        try:
            with _transaction(database):
                database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {schema.VERSION}")
                for statement in filter(str.strip, schema.TABLES.split(";")):
                    database.execute(statement)
                nowhere = msgspec.msgpack.encode(Checkpoint())
                database.execute("INSERT INTO meta VALUES (?)", (nowhere,))
        except sqlite3.Error:
            database.close()
            raise
        return cls(database, Checkpoint(), regular(path), most_values)

    def is_in_place(self, directory: Path) -> bool:
        """Whether the file is still what its name stands for."""
        try:
            return regular(path_of(directory)) == self._file
        except (FileNotFoundError, Unusable):
            return False

    # Rows ----------------------------------------------------------------------------------------------------

    def put(self, exchange: Exchange, told: Told = NOTHING) -> None:
        """Add an exchange, or say anew what has changed in one."""
        numbered, own = [], None
        series = f"w{exchange.worker}-{exchange.boot_id}"
        for position in exchange.positions:
            segment = self._segment(position[:2])
            numbered.append((segment, position[2]))
            if own is None and position[0] == series:
                own = segment
        own = numbered[0][0] if own is None else own
        asked = None if told.atoms is None else self._number_of(told.atoms)
        bits = served.of(exchange, constrained=asked is not None and constrains(told.atoms or ()))
        values = row.values(exchange, self._words, (own, _pack(numbered)), told, asked, served=bits)
        self._rows[exchange.id] = values
        others = {segment for segment, _ in numbered if segment != own}
        if others:
            self._straddling += [(segment, values[0]) for segment in others]

    def commit(self, checkpoint: Checkpoint) -> None:
        """Write what was put, and that the journal has been read so far."""
        with _transaction(self._database):
            self._write(checkpoint)
        self.checkpoint = checkpoint
        self._written()

    def _write(self, checkpoint: Checkpoint) -> None:
        database = self._database
        database.executemany("INSERT INTO texts (text, n) VALUES (?, ?)", self._words.new)
        database.executemany("INSERT INTO segments VALUES (?, ?, ?)", self._new_segments)
        database.executemany("INSERT INTO atoms VALUES (?, ?)", self._new_atoms)
        database.executemany("INSERT INTO asked VALUES (?, ?)", self._new_asked)
        rows = list(self._rows.values())
        for packed in self._there(rows):
            served.take(database, "id = ?", packed)
        served.add(database, rows, lambda asked: served.numbers(self._packed[asked]))
        database.executemany(_PUT, rows)
        database.executemany(_STRADDLES, self._straddling)
        database.execute("UPDATE meta SET position = ?", (msgspec.msgpack.encode(checkpoint),))

    def _there(self, rows: Sequence[row.Values]) -> Iterator[tuple[bytes | str]]:
        """The ids of those that have a row already."""
        for start in range(0, len(rows), _PAGE):
            ids = [each[0] for each in rows[start : start + _PAGE]]
            yield from self._database.execute(
                f"SELECT id FROM exchanges WHERE id IN ({','.join('?' * len(ids))})", ids
            ).fetchall()

    def _written(self) -> None:
        self._words.new.clear()
        self._new_segments.clear()
        self._new_atoms.clear()
        self._new_asked.clear()
        self._packed.clear()
        self._straddling.clear()
        self._rows.clear()

    def make_ready(self) -> bool:
        """Make one of the indexes that are lacking; False when none is. Each takes a second for a million rows."""
        if not self._lacking:
            return False
        create = schema.INDEXES[self._lacking[-1]]
        try:
            self._database.execute(create)
        except sqlite3.OperationalError:
            # To sort many rows takes a directory for temporary files, which a read-only system has not.
            self._database.execute("PRAGMA temp_store = MEMORY")
            self._database.execute(create)
        self._lacking.pop()
        return True

    @property
    def waiting(self) -> int:
        """Rows that were put and not yet committed."""
        return len(self._rows)

    def _number_of(self, asked: Atoms) -> int | None:
        """What stands for all that a request asks for; None where there is no room for another place."""
        numbers = [self._atoms.get(each) or self._atom(each) for each in asked.items()]
        if None in numbers:
            return None
        packed = _pack(numbers)
        number = self._asked.pop(packed, None)
        if number is None:
            number = self._last_asked = self._last_asked + 1
            self._new_asked.append((number, packed))
            if len(self._asked) >= _REMEMBERED:
                del self._asked[next(iter(self._asked))]
        self._asked[packed] = number
        self._packed[number] = packed
        return number

    def _atom(self, atom: tuple[str, str]) -> served.Packed | None:
        number = self._atoms.get(atom)
        if number is not None:
            return number
        place, value = atom
        if self._values[place] < self._most_values and len(self._atoms) < schema.MOST_ATOMS:
            return self._new_atom(atom)
        others = place, schema.OTHERS
        number = self._atoms.get(others)
        if number is None and self._values[place] and len(self._atoms) < 2 * schema.MOST_ATOMS:
            number = self._new_atom(others)
        return None if number is None else (number, value)

    def _new_atom(self, atom: tuple[str, str]) -> int:
        number = self._atoms[atom] = len(self._atoms) + 1
        self._values[atom[0]] += 1
        self._new_atoms.append((number, json.dumps(atom)))
        return number

    def _segment(self, segment: Segment) -> int:
        number = self._segments.get(segment)
        if number is None:
            number, self._next_segment = self._next_segment, self._next_segment + 1
            self._segments[segment] = number
            self._new_segments.append((number, *segment))
        return number

    # Retention -----------------------------------------------------------------------------------------------

    def segments(self) -> Iterable[Segment]:
        """The segments in which rows have records."""
        return self._segments.keys()

    def forget(self, segment: Segment, again: Callable[[Positions], tuple[Exchange, Told] | None]) -> None:
        """Take out what had its records in a segment that is deleted. Of what has others still, `again` makes the
        exchange of these, or None where they are not enough for one. Not while something waits to be committed.
        """
        database, number = self._database, self._segments[segment]
        by_number = {number: segment for segment, number in self._segments.items()}
        ids = []
        for packed, positions in database.execute(_OVER_THE_EDGE, (number, number)).fetchall():
            left = [position for position in unpacked(positions, by_number) if position[:2] != segment]
            if left:
                ids.append((packed,))
                made = again(left)
                if made is not None:
                    self.put(*made)
        with _transaction(database):
            database.executemany(_NOT_STRADDLING, ids)
            for packed in ids:
                served.take(database, "id = ?", packed)
            database.executemany("DELETE FROM exchanges WHERE id = ?", ids)
            served.take(database, "segment = ?", (number,))
            database.execute("DELETE FROM exchanges WHERE segment = ?", (number,))
            database.execute("DELETE FROM straddling WHERE segment = ?", (number,))
            database.execute("DELETE FROM segments WHERE n = ?", (number,))
            self._write(self.checkpoint)
            self._forget_asked()
        self._written()
        del self._segments[segment]

    def _forget_asked(self) -> None:
        """Delete what no row refers to any more, when enough has come since that was done."""
        if self._last_asked - self._swept_asked < _REMEMBERED:
            return
        self._swept_asked = self._last_asked
        self._database.execute("DELETE FROM asked WHERE n NOT IN (SELECT asked FROM exchanges WHERE asked IS NOT NULL)")
        new = {number for number, _ in self._new_asked}
        self._asked = {packed: number for packed, number in self._asked.items() if number in new}

    def close(self) -> None:
        """Let go of the file. What was put and not committed is forgotten."""
        self._database.close()


def unpacked(positions: bytes, segments: Mapping[int, Segment]) -> Positions:
    """What `Store.put` has packed."""
    numbered = msgspec.msgpack.decode(positions, type=list[tuple[int, int]])
    return [RecordPosition(*segments[segment], offset) for segment, offset in numbered]


def regular(path: Path) -> tuple[int, int]:
    """Which file this is. Raises FileNotFoundError where there is none, Unusable where it is no file."""
    found = path.stat(follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise Unusable("it is no file")
    return found.st_dev, found.st_ino


def _connect(path: Path, busy_seconds: float = _BUSY_SECONDS) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    database = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=busy_seconds)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # Nothing is lost with a power cut that the journal has not got.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        database.execute("PRAGMA cell_size_check = ON")
        # What is deleted is overwritten: nobody reads it in the file afterwards.
        database.execute("PRAGMA secure_delete = ON")
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
