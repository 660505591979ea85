"""The index lost, damaged, killed over, deleted beneath a reader, or behind retention: the answers stay right."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from support import syscalls
from support.kinds import History
from support.thorough import THOROUGH

from extproc.history import reader
from extproc.history.answers import Answers
from extproc.history.filters import Filters
from extproc.history.index import check, schema, store
from extproc.history.index.indexer import Indexer
from extproc.history.index.query import Index
from extproc.history.index.tail import Tail
from extproc.history.join import Exchange
from extproc.history.live_tables import LiveTables
from extproc.incidents.indexed import Bodies

PAGE = 4096


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A journal of some exchanges."""
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    history = History(random.Random(5), most=30)
    history.write(directory, history.events)
    return directory


def index(directory: Path) -> int:
    """Bring the index up to date as a follower does, waiting for nothing; how often it failed."""
    clock = [0.0]
    indexer = Indexer(directory, clock=lambda: clock[0], reader=Bodies())
    for _ in range(3):
        while indexer.step():
            pass
        indexer.commit(now=True)
        clock[0] += 100
    indexer.close()
    return indexer.failures


def asked(directory: Path, told: list[str] | None = None) -> list[Any]:
    """What the journal holds, by every way of asking that reads other pages."""
    questions = (Filters(), Filters(failed=True), Filters(upstreams=("*",)), Filters(models=("gpt*",)))
    with Answers([directory], (told if told is not None else []).append) as answers:
        found: list[Any] = [sorted(each.id for each in answers.exchanges(wanted)) for wanted in questions]
        found.append(sorted((each.members() for each in answers.exchanges(Filters(), complete=True)), key=str))
        found += [[each.id for each in answers.find(id[-8:])] for id in found[0][:3]]
    return found


def scanned(directory: Path) -> list[Any]:
    """The same without an index."""
    copy = directory.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy)
    store.delete(copy)
    told: list[str] = []
    found = asked(copy, told)
    assert told == [f"{copy}: the journal is read instead of its index: there is none"]
    return found


def is_right(directory: Path) -> None:
    """The index says what the journal says."""
    with Index.open(directory) as opened:
        assert list(check.differences(opened, Tail(opened, LiveTables()))) == []
        assert opened.count() + len(Tail(opened, LiveTables()).ended) == len(
            [each for each in reader.exchanges([directory]) if not each.in_flight]
        )


@pytest.mark.parametrize("what", ["zeros", "noise"])
def test_damage_at_every_page(data: Path, what: str) -> None:
    """The answers are those of the journal, and the follower makes the index anew."""
    assert index(data) == 0
    expected = scanned(data)
    assert asked(data) == expected
    path = store.path_of(data)
    whole = path.read_bytes()
    noise = random.Random(1)
    for page in range(len(whole) // PAGE):
        store.delete(data)
        damaged = bytes(PAGE) if what == "zeros" else noise.randbytes(PAGE)
        path.write_bytes(whole[: page * PAGE] + damaged + whole[(page + 1) * PAGE :])
        assert [sorted(map(str, each)) for each in asked(data)] == [sorted(map(str, each)) for each in expected], page
    index(data)


@pytest.mark.parametrize("length", [0, 1, 100, PAGE, 3 * PAGE + 5])
def test_a_file_that_is_cut_off_is_made_anew(data: Path, length: int) -> None:
    """So is one of another version, or of another program."""
    index(data)
    expected = scanned(data)
    os.truncate(store.path_of(data), length)
    assert asked(data) == expected
    index(data)
    is_right(data)


def test_another_version_is_made_anew(data: Path) -> None:
    """Its tables are not ours."""
    index(data)
    with sqlite3.connect(store.path_of(data)) as database:
        database.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    database.close()
    told: list[str] = []
    asked(data, told)
    assert f"it is of version {schema.VERSION + 1}, and ours is {schema.VERSION}" in told[0]
    index(data)
    is_right(data)


def test_deleted_under_a_reader_and_under_the_follower(data: Path) -> None:
    """The reader goes on with what it has; the follower makes another one."""
    index(data)
    expected = scanned(data)
    indexer = Indexer(data, reader=Bodies())
    while indexer.step():
        pass
    with Answers([data]) as answers:
        found = answers.exchanges(Filters())
        first = next(found)
        store.delete(data)
        ids = sorted([first.id, *(each.id for each in found)])
    assert ids == expected[0]
    indexer.commit(now=True)
    assert indexer.failures == 1
    indexer.close()
    index(data)
    is_right(data)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_its_writes(data: Path, tmp_path: Path) -> None:
    """What is left is right as far as it goes, and goes on from there. A part of them; `make thorough` takes more."""
    program = (
        "import sys; from pathlib import Path; from extproc.history.index.indexer import Indexer\n"
        "from extproc.incidents.indexed import Bodies\n"
        "indexer = Indexer(Path(sys.argv[1]), reader=Bodies())\n"
        "while indexer._tried(lambda work: work.read(7)): indexer.commit(now=True)\n"
        "indexer.close()"
    )
    expected, kills, step = scanned(data), 0, 9 if THOROUGH else 60
    for call in ("pwrite64", "ftruncate", "unlink", "openat"):
        for number in range(1, 400, 1 if call == "ftruncate" else step):
            store.delete(data)
            paths = ("-P", str(store.path_of(data)), "-P", f"{store.path_of(data)}-wal")
            inject = (f"--trace={call}", f"--inject={call}:signal=KILL:when={number}")
            command = (sys.executable, "-c", program, str(data))
            done = syscalls.strace("-f", "-qq", "-o", "/dev/null", *paths, *inject, *command)
            assert asked(data) == expected, (call, number)
            if done.returncode != -signal.SIGKILL:
                break
            kills += 1
            index(data)
            is_right(data)
    assert kills > 5


def test_ended_before_all_of_it_was_made(data: Path) -> None:
    """Rows come first, then the indexes of their columns, one at a time: whoever asks before the last one reads the
    journal, and the next run goes on."""
    expected, steps = scanned(data), 0
    while steps < len(schema.INDEXES) + 1:
        indexer = Indexer(data)
        assert indexer.step() == (steps < len(schema.INDEXES))
        indexer.close()
        if steps in (0, len(schema.INDEXES) - 2):
            told: list[str] = []
            assert asked(data, told) == expected
            assert told == [
                f"{data}: the journal is read instead of its index: it is being made, or was not to its end"
            ]
        steps += 1
    told = []
    assert asked(data, told) == expected
    assert told == []
    is_right(data)


def test_indexes_are_made_where_there_is_no_room_for_temporary_files(data: Path) -> None:
    """A system that can only be read has no directory for them: they are sorted in memory then."""
    opened = store.Store.open(data)
    opened._database.close()
    database = opened._database = NoTemporaryFiles(store.path_of(data), isolation_level=None)
    while opened.make_ready():
        pass
    opened.close()
    assert database.refused == 1
    index(data)
    is_right(data)


class NoTemporaryFiles(sqlite3.Connection):
    """A database that sorts nothing before it is told to use memory."""

    refused = 0
    _in_memory = False

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """As SQLite would."""
        self._in_memory = self._in_memory or sql == "PRAGMA temp_store = MEMORY"
        if sql.startswith("CREATE INDEX") and not self._in_memory:
            self.refused += 1
            raise sqlite3.OperationalError("unable to open database file")
        return super().execute(sql, parameters)


def test_rows_follow_retention(data: Path) -> None:
    """What has lost its segments goes, and what has lost a part says what is left, also while a reader pages."""
    index(data)
    indexer = Indexer(data, reader=Bodies())
    while indexer.step():
        pass
    for path in sorted((data / "segments").iterdir())[:3]:
        with Answers([data]) as answers:
            found = answers.exchanges(Filters(), complete=True)
            some = [each.id for each, _ in zip(found, range(2), strict=False)]
            path.unlink()
            assert len({*some, *(each.id for each in found)}) >= len(some)
        assert sorted(each.id for each in _ended(data)) == asked(data)[0]
        while indexer.step():
            pass
        indexer.commit(now=True)
        is_right(data)
    assert indexer.failures == 0
    indexer.close()


def _ended(directory: Path) -> list[Exchange]:
    return [each for each in reader.exchanges([directory]) if not each.in_flight]


def test_the_file_is_its_owners_alone(data: Path) -> None:
    """Like all of the journal; so are the files beside it."""
    indexer = Indexer(data, reader=Bodies())
    indexer.step()
    modes = {path.stat().st_mode & 0o777 for path in data.glob("index.sqlite*")}
    indexer.close()
    assert modes == {0o600}


def test_a_symbolic_link_is_not_followed(data: Path, tmp_path: Path) -> None:
    """It is taken away, and what it points to stays."""
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    store.path_of(data).symlink_to(other)
    index(data)
    assert other.read_bytes() == b"precious"
    is_right(data)


def test_nothing_is_raised_where_nothing_can_be_written(data: Path) -> None:
    """It is counted, and tried again."""

    def fail(_: Path) -> store.Store:
        raise sqlite3.OperationalError("database or disk is full")

    clock = [0.0]
    indexer = Indexer(data, fail, lambda: clock[0])
    assert not indexer.step()
    assert not indexer.step()
    assert indexer.failures == 1
    clock[0] += 11
    assert not indexer.step()
    assert indexer.failures == 2
    indexer.close()
