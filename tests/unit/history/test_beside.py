"""Reading beside others: a writer, other readers, retention, and where nothing may be written."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.generated import Generated
from support.journals import START_NS, WAIT_SECONDS, access, append, id_of, journal, request, response, segments
from support.small_disk import read_only

from extproc.history import bodies, lookup, now, reader, status, verify
from extproc.history.answers import Answers
from extproc.history.coverage import Coverage
from extproc.history.filters import Filters
from extproc.history.index.indexer import Indexer
from extproc.history.join import Exchange
from extproc.history.joiner import Policy
from extproc.journal import retention

COUNT = 150


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


class Reading:
    """Reads everything again and again in a thread; what must be there is what was written before it began."""

    def __init__(self, data: Path) -> None:
        self.written: list[str] = []
        self.rounds = 0
        self.wrong: list[str] = []
        self._data = data
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            before = list(self.written)
            found = [each.id for each in reader.exchanges([self._data])]
            if len(found) != len(set(found)):
                self.wrong.append("one came twice")
            self.wrong += [f"{id} is not there" for id in set(before) - set(found)]
            self.rounds += 1

    def stop(self) -> None:
        """After the round that is under way."""
        self._over.set()
        self._thread.join(WAIT_SECONDS)


def test_two_readers_and_a_writer(data: Path) -> None:
    """Each round of each reader has all that was recorded before it, once, whatever is closed and compressed."""
    with journal(data, segment_bytes=4000, durability="write") as writer:
        readings = [Reading(data) for _ in range(2)]
        try:
            for number in range(COUNT):
                append(writer, request(number), response(number), access(number))
                for reading in readings:
                    reading.written.append(id_of(number))
                if number % 20 == 0:
                    retention.compress_closed(data)
        finally:
            for reading in readings:
                reading.stop()
    assert [reading.wrong for reading in readings] == [[], []]
    assert all(reading.rounds for reading in readings)
    assert len(list(reader.exchanges([data]))) == COUNT


def test_retention_while_a_reader_pages(data: Path) -> None:
    """What is deleted before the reader comes to it is not there; all that is kept comes once, in order."""
    with journal(data, segment_bytes=2000, durability="write") as writer:
        for number in range(COUNT):
            at = START_NS + number * 60_000_000_000
            append(writer, request(number, at=at), response(number, at=at), access(number, at=at))
        pages = reader.exchanges([data], policy=Policy(most_in_order=5))
        first = [next(pages) for _ in range(10)]
        left = len(segments(data)) // 2
        deleted = retention.apply(data, days=0, segments=left, bytes=0, now_ns=time.time_ns()).deleted
        rest = list(pages)
    assert deleted
    found = [number_of(each) for each in [*first, *rest]]
    assert found == sorted(set(found))
    assert found[:10] == list(range(10))
    kept = [number_of(each) for each in reader.exchanges([data])]
    assert kept == list(range(kept[0], COUNT))
    assert set(kept) <= set(found)
    assert len(found) < COUNT


def number_of(exchange: Exchange) -> int:
    """Which exchange this is."""
    return int(exchange.id[-12:], 16)


def answers(world: Generated) -> Iterator[Any]:
    """What all questions to a journal give."""
    exchanges = [each.members() for each in reader.exchanges(world.directories)]
    yield exchanges
    yield [lookup.find(world.directories, each["id"]) for each in exchanges[:5]]
    yield [bodies.whole(each, "request") for each in reader.exchanges(world.directories)]
    with Answers(world.directories) as asked:
        yield [each.members() for each in asked.exchanges(Filters(), complete=True)]
        yield [asked.find(each["id"][-8:]) for each in exchanges[:5]]
        yield list(now.exchanges(world.directories, asked))
    yield list(Coverage(world.directories).accesses())
    for directory in world.directories:
        yield [str(finding) for finding in verify.verify(directory)]
        with Answers([directory]) as asked:
            yield status.of(directory, asked, None, None, None).last_death_at


def _index(directory: Path) -> None:
    indexer = Indexer(directory)
    while indexer.step():
        pass
    indexer.close()
    assert indexer.failures == 0


def test_a_read_only_mount(tmp_path: Path) -> None:
    """Every question has the same answer where nothing may be written, and nothing is."""
    world = Generated(1, tmp_path / "world")
    world.play()
    _index(world.directories[0])
    expected = list(answers(world))
    assert expected[0]
    with read_only(tmp_path / "world"):
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "world" / "probe").touch()
        assert list(answers(world)) == expected
