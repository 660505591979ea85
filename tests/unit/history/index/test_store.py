"""Rows that are erased: gone from the file, whoever has it open."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from support.recorded import Recording

from extproc.history.index import row, store
from extproc.history.index.indexer import Indexer
from extproc.history.index.query import Index

SECRET = "/v1/patients/4711"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A journal of which three exchanges have rows, the second with a path of its own."""
    directory = tmp_path / "data"
    with Recording(directory) as recording:
        for path in ("/v1/chat/completions", SECRET, "/v1/models", "/"):
            recording.add_access(recording.add(path=path))
    index(directory).close()
    return directory


def index(directory: Path) -> Indexer:
    """The index up to date, and still open."""
    indexer = Indexer(directory)
    while indexer.step():
        pass
    indexer.commit(now=True)
    return indexer


def ids(directory: Path) -> list[str]:
    """What has a row."""
    with sqlite3.connect(store.path_of(directory)) as database:
        found = [packed for (packed,) in database.execute("SELECT id FROM exchanges ORDER BY started")]
    database.close()
    return [row.unpacked_id(packed) for packed in found]


def held(directory: Path) -> bytes:
    """All bytes of the index."""
    return b"".join(path.read_bytes() for path in directory.glob("index.sqlite*"))


def test_what_is_erased_is_nowhere_in_the_file(data: Path) -> None:
    """Neither as a row, nor in a page or a log that holds what was one; the others stay."""
    first, second, third = ids(data)
    assert SECRET.encode() in held(data)
    assert store.erase(data, [second, "no such id"]) == 1
    assert ids(data) == [first, third]
    assert SECRET.encode() not in held(data)


def test_erased_beside_the_follower(data: Path) -> None:
    """Who keeps the index goes on with it, and puts nothing back."""
    first, second, third = ids(data)
    kept = index(data)
    assert store.erase(data, [second]) == 1
    with Recording(data, boot_id="b002") as recording:
        for minute in (9, 10):
            recording.add_access(recording.add(minute=minute))
    while kept.step():
        pass
    kept.commit(now=True)
    kept.close()
    assert kept.failures == 0
    assert [id for id in ids(data) if id in (first, second, third)] == [first, third]
    assert len(ids(data)) > 3


def test_no_index_is_nothing_to_erase(tmp_path: Path) -> None:
    """And none is made."""
    assert store.erase(tmp_path, ["x"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_index_that_cannot_be_read_goes_as_a_whole(data: Path) -> None:
    """Nobody could say what it holds."""
    _, second, _ = ids(data)
    with store.path_of(data).open("r+b") as file:
        file.write(b"x" * 4096)
    assert store.erase(data, [second]) == 0
    assert not store.path_of(data).exists()


def test_a_reader_that_holds_on_is_told(data: Path) -> None:
    """What was deleted is still in the log of changes then, which is no answer to be silent about."""
    _, second, _ = ids(data)
    with Index.open(data) as reader:
        reader._database.execute("BEGIN")
        reader.count()
        with pytest.raises(sqlite3.OperationalError, match="is being read"):
            store.erase(data, [second], busy_seconds=0.05)
        reader._database.execute("COMMIT")
    store.erase(data, [second])
    assert SECRET.encode() not in held(data)
