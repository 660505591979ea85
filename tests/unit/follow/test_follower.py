"""Each exchange once to every consumer, also across restarts; after a kill at least once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journals import access, append, id_of, journal, request, response
from support.stack import eventually

from extproc.core.records import AnyRecord
from extproc.follow import follower as follower_
from extproc.follow.follower import Follower
from extproc.history.join import Exchange
from extproc.journal.writer import Journal


class Consumer:
    """Notes what it gets. While `stuck`, nothing is out of its hands."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.records: list[AnyRecord] = []
        self.stuck = False

    def exchange(self, exchange: Exchange) -> None:
        """One more."""
        self.ids.append(exchange.id)

    def record(self, record: AnyRecord) -> None:
        """One more."""
        self.records.append(record)

    def sequence(self) -> int:
        """How many so far."""
        return len(self.ids)

    def flushed_to(self, sequence: int) -> bool:
        """As the test wants it."""
        return not self.stuck


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the position is kept, at every step."""
    monkeypatch.setattr(follower_, "SAVE_SECONDS", 0.0)
    return tmp_path / "position.json"


@pytest.fixture
def writer(data: Path) -> Iterator[Journal]:
    """A journal that is being written."""
    with journal(data) as writer:
        yield writer


def whole(number: int) -> tuple[bytes, bytes, bytes]:
    """All records of an exchange."""
    return request(number), response(number), access(number)


def caught_up(follower: Follower) -> None:
    """Read everything that is there, and keep the position."""
    while follower.step():
        pass
    follower.step()
    follower.step()


def test_each_exchange_once(data: Path, kept: Path, writer: Journal) -> None:
    """As it becomes final, and to every consumer."""
    consumers = [Consumer(), Consumer()]
    follower = Follower(data, consumers, kept)
    for number in range(1, 6):
        append(writer, *whole(number))
        caught_up(follower)
    assert [each.ids for each in consumers] == [[id_of(number) for number in range(1, 6)]] * 2
    assert (follower.exchanges, follower.lag_seconds, follower.behind_bytes()) == (5, 0.0, 0)


def test_an_idle_follower_leaves_the_disk_alone(data: Path, kept: Path, writer: Journal) -> None:
    """A position that has not changed is not written again, not even by the next run."""
    append(writer, *whole(1))
    follower = Follower(data, [Consumer()], kept)
    caught_up(follower)
    file = kept.stat().st_ino
    caught_up(follower)
    follower.close(5.0)
    Follower(data, [Consumer()], kept).close(5.0)
    assert kept.stat().st_ino == file
    append(writer, request(2))
    caught_up(follower)
    assert kept.stat().st_ino != file


def test_a_clean_restart_at_any_moment(data: Path, kept: Path, writer: Journal) -> None:
    """After each single record: nothing twice, nothing lost, also of an exchange that spans the restarts."""
    consumer = Consumer()
    for record in [record for number in range(1, 5) for record in whole(number)]:
        append(writer, record)
        follower = Follower(data, [consumer], kept)
        caught_up(follower)
        follower.close(5.0)
    assert consumer.ids == [id_of(number) for number in range(1, 5)]


def test_a_kill_at_any_moment(data: Path, kept: Path, writer: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the position of the last moments what came since is repeated, and nothing is lost."""
    monkeypatch.setattr(follower_, "SAVE_SECONDS", 3600.0)
    consumer = Consumer()
    records = [record for number in range(1, 5) for record in whole(number)]
    for count, record in enumerate(records):
        append(writer, record)
        follower = Follower(data, [consumer], kept)
        caught_up(follower)
        if count == 6:
            follower.close(5.0)
    assert set(consumer.ids) == {id_of(number) for number in range(1, 5)}
    assert consumer.ids.count(id_of(1)) > 1
    last = consumer.ids[-2:]
    assert last == [id_of(3), id_of(4)], "what the kept position covers is not repeated"


def test_the_position_waits_for_the_consumers(data: Path, kept: Path, writer: Journal) -> None:
    """What a consumer still holds is not behind us."""
    consumer = Consumer()
    consumer.stuck = True
    follower = Follower(data, [consumer], kept)
    append(writer, *whole(1))
    caught_up(follower)
    assert not kept.exists()
    consumer.stuck = False
    caught_up(follower)
    assert kept.exists()


def test_a_close_gives_up_in_time(data: Path, kept: Path, writer: Journal) -> None:
    """A consumer that never lets go costs the position, not the stop."""
    consumer = Consumer()
    consumer.stuck = True
    follower = Follower(data, [consumer], kept)
    append(writer, *whole(1))
    caught_up(follower)
    follower.close(0.1)
    assert not kept.exists()


def test_a_position_that_is_damaged(data: Path, kept: Path, writer: Journal) -> None:
    """It begins anew at the segments that are open: repeated rather than lost."""
    consumer = Consumer()
    append(writer, *whole(1))
    kept.write_bytes(b"nonsense")
    caught_up(Follower(data, [consumer], kept))
    assert consumer.ids == [id_of(1)]


def test_an_entry_in_another_workers_series(data: Path, kept: Path, writer: Journal) -> None:
    """It is joined all the same."""
    consumer = Consumer()
    follower = Follower(data, [consumer], kept)
    append(writer, request(1), response(1))
    caught_up(follower)
    with journal(data, worker=1, boot_id="other") as second:
        append(second, access(1))
        caught_up(follower)
    assert consumer.ids == [id_of(1)]


def test_over_an_old_journal(data: Path) -> None:
    """Without a position everything is given once, what has no entry too, and what never ended is not."""
    with journal(data, segment_bytes=1000) as writer:
        append(writer, *whole(1), request(2), response(2), request(3), access(None))
    consumer = Consumer()
    follower = Follower(data, [consumer], None)
    while follower.step():
        pass
    follower.finish()
    assert sorted(consumer.ids) == [id_of(1), id_of(2)]
    assert [record.type for record in consumer.records] == ["access"]


def test_while_it_is_behind(data: Path, kept: Path, writer: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, until it has caught up."""
    monkeypatch.setattr(follower_, "BATCH", 3)
    append(writer, *(record for number in range(1, 5) for record in whole(number)))
    follower = Follower(data, [Consumer()], kept)
    assert follower.step()
    assert follower.lag_seconds > 0
    assert follower.behind_bytes() > 0
    eventually(lambda: not follower.step(), "the end")
    assert follower.lag_seconds == 0
