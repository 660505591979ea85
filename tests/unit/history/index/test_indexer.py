"""The index kept by the follower: it reads what it lacks by itself, and is then given what the follower reads."""

from __future__ import annotations

import contextlib
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.generated import Generated
from support.recorded import Recording
from support.thorough import THOROUGH

from extproc.follow import checkpoint
from extproc.follow.follower import Follower
from extproc.history import reader
from extproc.history.answers import Answers
from extproc.history.filters import Filters
from extproc.history.index import check
from extproc.history.index.indexer import Indexer
from extproc.history.index.query import Index
from extproc.history.index.tail import Tail
from extproc.history.live_tables import LiveTables
from extproc.incidents.indexed import Bodies

BEGUN = datetime(2025, 11, 21, tzinfo=UTC)


def test_the_follower_keeps_it_across_restarts(tmp_path: Path) -> None:
    """History before the first start, and what comes while it runs; no exchange twice, none left out."""
    data = tmp_path / "data"
    ids: list[str] = []
    with Recording(data) as recording:
        for _ in range(3):
            with checkpoint.locked(data) as kept:
                ids += [_record(recording) for _ in range(5)]
                indexer = Indexer(data)
                follower = Follower(data, [], kept, index=indexer)
                for _ in range(4):
                    ids.append(_record(recording))
                    while follower.step():
                        pass
                    assert indexer.is_caught_up
                follower.close(1)
                assert indexer.failures == 0
        told: list[str] = []
        with Answers([data], told.append) as answers:
            assert [each.id for each in answers.exchanges(Filters())] == ids
            assert told == []
    with Index.open(data) as index:
        assert index.count() > len(ids) - 3
        assert list(check.differences(index, Tail(index, LiveTables()))) == []


def test_only_the_follower_has_segments_open(tmp_path: Path) -> None:
    """Once it reads for both: what retention deletes takes up space for as long as somebody has it open."""
    data = tmp_path / "data"
    with Recording(data) as recording, checkpoint.locked(data) as kept:
        _record(recording)
        before = _open_below(data / "segments")
        follower = Follower(data, [], kept, index=Indexer(data))
        while follower.step():
            pass
        assert _open_below(data / "segments") == before + 1
        follower.close(1)


def _open_below(directory: Path) -> int:
    """How many files there this process has open."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            found += each.readlink().parent == directory
    return found


class Following:
    """A follower with its index that is ended or killed by chance, each time with something still in memory."""

    def __init__(self, directory: Path, chance: random.Random) -> None:
        self._directory = directory
        self._chance = chance
        self._seconds = 0.0
        self._begin()

    def _begin(self) -> None:
        self.index = Indexer(self._directory, clock=lambda: self._seconds, reader=Bodies())
        self.follower = Follower(self._directory, [], self._directory / "position.json", index=self.index)

    def step(self, at: str) -> None:
        """Read some of what is there, or nothing."""
        for _ in range(self._chance.randrange(3)):
            self._seconds += self._chance.random() / 2
            self.follower.step()
        if self._chance.random() < 0.04:
            if self._chance.random() < 0.5:
                self.follower.close(5.0)
            else:
                self.index._let_go()  # what was not committed is lost
            self._begin()

    def end(self) -> None:
        """Read the rest."""
        while self.follower.step():
            pass
        self.follower.close(5.0)


@pytest.mark.parametrize("seed", range(12 if THOROUGH else 2))
def test_it_holds_what_a_scan_finds_though_the_follower_waits_for_nothing(seed: int, tmp_path: Path) -> None:
    """All of the journal is long ago for a follower, which gives each exchange at once; a row has what has come since,
    as far as the times of the records allow, whether follower and index were killed, and whoever of them was behind."""
    world = Generated(seed, tmp_path)
    data, _ = world.directories
    following = Following(data, random.Random(seed))
    world.play(following.step)
    following.end()
    assert following.index.failures == 0
    with Index.open(data) as index:
        tail = Tail(index, LiveTables())
        assert list(check.differences(index, tail, reader_of_bodies=Bodies())) == []
        ended = [each for each in reader.exchanges([data]) if not each.in_flight]
        assert index.count() + len(tail.ended) == len(ended) > 20
        assert index.count() > len(ended) / 2


def _record(recording: Recording) -> str:
    id = recording.add()
    recording.add_access(id, upstream="10.0.0.7:8000")
    return id


def test_entries_without_their_exchange_are_let_go_of(tmp_path: Path) -> None:
    """Its segment may be lost. Whoever reads the index reads what it waits for, each time."""
    data = tmp_path / "data"
    with Recording(data) as recording:
        for number in range(100):
            recording.add_access(f"019aa465-b400-7000-9000-{number:012}", upstream="10.0.0.7:8000")
        recorded = [_record(recording) for _ in range(2)]  # a minute apart
    indexer = Indexer(data)
    while indexer.step():
        pass
    indexer.close()
    with Index.open(data) as index:
        assert [index.has(each) for each in recorded] == [True, False]
        assert len(index.checkpoint.pending) == 3


@pytest.mark.parametrize("indexed", [True, False])
def test_who_watches_goes_on_where_the_index_ends(tmp_path: Path, *, indexed: bool) -> None:
    """What is in it is not given again; from a time on all of that is, each once. Without an index all is read."""
    data = tmp_path / "data"
    with Recording(data) as recording:
        old = [_record(recording) for _ in range(4)]
        running = recording.add(answer=None)
        if indexed:
            indexer = Indexer(data)
            while indexer.step():
                pass
            indexer.close()
        with Answers([data]) as answers:
            new = [_record(recording) for _ in range(2)]
            looks = iter([False] * 3)
            every = answers.ending(Filters(since="2025-11-21T03:12:00.000000Z"), BEGUN, lambda: next(looks, True))
            ids = [each.id for each in every]
            assert sorted(ids) == [*old, *new]
            looks = iter([False] * 3)
            found = [each.id for each in answers.ending(Filters(), BEGUN, lambda: next(looks, True))]
            assert found == (new if indexed else [*old, *new])
        assert running not in ids
