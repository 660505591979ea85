"""All series of a directory, read once each, while segments are written, closed, compressed and deleted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.journals import START_NS, Faults, abandon, append, id_of, journal, request, response, segments

from extproc.core.records import id_of as id_of_record
from extproc.history import feed
from extproc.history.feed import Feed
from extproc.history.position import RecordPosition, RecordReader, records_at
from extproc.journal import recovery, retention, segment

MINUTE = 60_000_000_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def from_the_beginning(data: Path) -> Feed:
    """One that follows, from the first segment on."""
    return Feed([data], feed.everything, follow=True)


def going_on(data: Path, before: Feed) -> Feed:
    """One that follows from where another one is."""
    return Feed([data], feed.from_checkpoint(before.positions(data)), follow=True)


def read(tails: Feed, limit: int = 1000) -> list[str]:
    """The ids of what is there now; heads and ends of segments left out."""
    return [id for _, _, record in tails.records(limit) if (id := id_of_record(record)) is not None]


def test_records_come_once_as_they_are_written(data: Path) -> None:
    """Also across segments, and those of a worker that begins later."""
    tails = from_the_beginning(data)
    with journal(data, segment_bytes=1) as writer:
        for number in range(1, 6):
            append(writer, request(number))
            assert read(tails) == [id_of(number)]
        with journal(data, worker=1, boot_id="other") as second:
            append(second, request(9))
            assert read(tails) == [id_of(9)]
    assert read(tails) == []
    assert tails.behind_bytes() == 0


def test_by_time_across_series(data: Path) -> None:
    """Oldest first, whichever worker wrote them."""
    clock: dict[str, Any] = {"clock": lambda: START_NS}
    with journal(data, **clock) as one, journal(data, worker=1, boot_id="other", **clock) as two:
        append(one, request(1, at=START_NS), request(3, at=START_NS + 2 * MINUTE))
        append(two, request(2, at=START_NS + MINUTE), request(4, at=START_NS + 3 * MINUTE))
    found = read(Feed([data], feed.everything))
    assert [int(id[-12:], 16) for id in found] == [1, 2, 3, 4]


def test_no_further_than_another_one(data: Path) -> None:
    """Who reads up to where another one is has then read what he has, whatever stands behind that."""
    clock: dict[str, Any] = {"clock": lambda: START_NS, "segment_bytes": 400}
    first, second = from_the_beginning(data), from_the_beginning(data)
    found: list[str] = []
    with journal(data, **clock) as one, journal(data, worker=1, boot_id="other", **clock) as two:
        for number in range(1, 12):
            append(one if number % 3 else two, request(number, at=START_NS + number * MINUTE))
            more = read(first, number % 4)
            found += more
            assert [
                id for each in second.records(None, first.positions(data)) if (id := id_of_record(each.record))
            ] == more
    assert found


def test_going_on_from_a_position(data: Path) -> None:
    """After any number of records: nothing twice, nothing left out."""
    with journal(data, segment_bytes=400) as writer:
        append(writer, *(request(number) for number in range(1, 8)))
    whole = read(from_the_beginning(data))
    assert len(whole) == 7
    for limit in range(1, 20):
        first = from_the_beginning(data)
        begun = read(first, limit)
        assert begun + read(going_on(data, first)) == whole


@pytest.mark.parametrize("compressed", [False, True])
def test_a_segment_that_was_closed_meanwhile(data: Path, compressed: bool) -> None:
    """A position in an open segment holds in the closed one, and in the compressed one."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
        first = from_the_beginning(data)
        begun = read(first, 2)
        append(writer, request(2), response(2))
    if compressed:
        retention.compress_closed(data)
        assert segments(data)[0].endswith(".zst")
    assert begun == [id_of(1)]
    assert read(going_on(data, first)) == [id_of(1), id_of(2), id_of(2)]


def test_a_first_start_leaves_history_alone(data: Path) -> None:
    """What was closed before is history; what is open is read from its beginning."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
    with journal(data, boot_id="now") as writer:
        append(writer, request(2))
        tails = Feed([data], feed.from_checkpoint(feed.open_segments(data)), follow=True)
        assert read(tails) == [id_of(2)]
        append(writer, response(2))
        assert read(tails) == [id_of(2)]
    with journal(data, boot_id="later") as writer:
        append(writer, request(3))
        assert read(tails) == [id_of(3)]


def test_history_is_everything(data: Path) -> None:
    """From the first segment on, and then no more."""
    with journal(data, segment_bytes=1) as writer:
        append(writer, request(1), request(2))
        tails = Feed([data], feed.everything)
        assert read(tails) == [id_of(1), id_of(2)]


def test_segments_that_vanish(data: Path) -> None:
    """Retention deletes under our feet: what is left is read, and positions of nothing are forgotten."""
    with journal(data, segment_bytes=1) as writer:
        append(writer, request(1))
    with journal(data, boot_id="b2") as writer:
        append(writer, request(2))
        tails = from_the_beginning(data)
        read(tails, 1)
        for name in segments(data):
            if "-b1-" in name:
                (data / "segments" / name).unlink()
        assert id_of(2) in read(tails)
        read(tails)
        assert set(tails.positions(data)) == {"w0-b2"}


def test_a_crash_and_its_recovery(data: Path) -> None:
    """The records that recovery adds come too, once."""
    with journal(data) as writer:
        append(writer, request(1))
        tails = from_the_beginning(data)
        assert read(tails) == [id_of(1)]
        abandon(writer)
    recovery.recover(data)
    found = [record.type for _, _, record in tails.records(100)]
    assert found == ["orphan", "end"]


def test_how_much_is_still_to_be_read(data: Path) -> None:
    """Bytes, down to none."""
    with journal(data) as writer:
        append(writer, *(request(number) for number in range(1, 11)))
    tails = from_the_beginning(data)
    total = tails.behind_bytes()
    read(tails, 5)
    assert 0 < tails.behind_bytes() < total
    read(tails)
    assert tails.behind_bytes() == 0


def test_a_record_by_its_place(data: Path) -> None:
    """Found again in a closed segment and in a compressed one; None when it is gone."""
    with journal(data) as writer:
        append(writer, request(1), request(2))
    places = {id: place for _, place, record in from_the_beginning(data).records(100) if (id := id_of_record(record))}
    for step in (lambda: None, lambda: retention.compress_closed(data)):
        step()
        for id, place in places.items():
            record = RecordReader(data).record(place)
            assert record is not None
            assert id_of_record(record) == id
    series, number, offset = places[id_of(2)]
    assert RecordReader(data).record(RecordPosition(series, number, offset + 1)) is None
    assert RecordReader(data).record(RecordPosition(series, number + 1, offset)) is None
    assert RecordReader(data).record(RecordPosition("w9-none", number, offset)) is None


@pytest.mark.parametrize("order", [1, -1, 7])
def test_many_records_by_their_places(data: Path, order: int) -> None:
    """In the order in which they are asked for, of several series, in segments that are compressed, closed and open,
    as they are alone; what is gone is left out, and what was cut off."""
    with journal(data, segment_bytes=20_000) as first, journal(data, worker=1, boot_id="other") as second:
        for number in range(1, 30):
            append(first, request(number), response(number))
            append(second, request(number + 100), response(number + 100))
        assert retention.compress_closed(data)
        for number in range(30, 50):
            append(first, request(number), response(number))
        states = {name.state for name in segment.names(data / "segments")}
        assert states == {segment.COMPRESSED, segment.CLOSED, segment.OPEN}
        found = list(from_the_beginning(data).records(1000))
        inside = found[3].position._replace(offset=found[3].position.offset + 1)
        asked = sorted(found, key=lambda each: each.position.offset * order % 1009)
        places = [inside, *(each.position for each in asked), inside._replace(segment=99)]
        assert [RecordReader(data).record(each.position) for each in asked] == [each.record for each in asked]
        assert list(records_at(data, places)) == asked


def test_many_records_of_a_segment_take_one_reading(data: Path) -> None:
    """What stands together in a compressed segment is decompressed once for all of them."""
    with journal(data) as writer:
        append(writer, *(record for number in range(1, 30) for record in (request(number), response(number))))
    assert retention.compress_closed(data)
    found = list(from_the_beginning(data).records(1000))
    reader = RecordReader(data)
    assert reader.record(found[0].position) == found[0].record
    for path in (data / "segments").iterdir():
        path.unlink()
    assert [reader.record(each.position) for each in found] == [each.record for each in found]


def test_a_record_is_found_where_its_segment_was_reduced(data: Path) -> None:
    """A follower that begins again finds what it knew of an exchange in flight, though the rest around it has gone."""
    with journal(data, segment_bytes=900) as writer:
        append(writer, request(1), response(1), request(2))
        append(writer, *(record for number in range(3, 9) for record in (request(number), response(number))))
        tails = from_the_beginning(data)
        places = {id_of_record(record): place for _, place, record in tails.records(1000) if record.type == "request"}
        assert retention.apply(data, days=0, segments=1, bytes=0, now_ns=START_NS).deleted
        found = RecordReader(data).record(places[id_of(2)])
        assert found is not None
        assert id_of_record(found) == id_of(2)
        assert RecordReader(data).record(places[id_of(1)]) is None
        append(writer, response(2))


def test_going_on_in_a_segment_that_was_reduced(data: Path) -> None:
    """Read before or after, in one go or several, by the same places: what is left of it comes once, and is found."""
    with journal(data, segment_bytes=2500) as writer:
        append(writer, request(1), request(2), response(2), request(3))
        append(writer, *(record for number in range(4, 12) for record in (request(number), response(number))))
        before = [
            place
            for _, place, record in from_the_beginning(data).records(1000)
            if id_of_record(record) in {id_of(1), id_of(3)}
        ]
        started = [from_the_beginning(data) for _ in range(6)]
        for limit, tails in enumerate(started):
            list(tails.records(limit))
        assert retention.apply(data, days=0, segments=1, bytes=0, now_ns=START_NS).deleted
        whole = [place for _, place, record in from_the_beginning(data).records(1000) if record.type == "request"]
        assert whole[:2] == before
        for place in whole:
            record = RecordReader(data).record(place)
            assert record is not None
            assert record.type == "request"
        for tails in started:
            at = next(iter(tails.positions(data).values()), (0, 0))
            left = [place for place in before if place[1:] >= at]
            again = going_on(data, tails)
            assert [place for _, place, _ in again.records(1000) if place in before] == left
        for limit in range(1, 8):
            first = from_the_beginning(data)
            begun = [place for _, place, _ in first.records(limit)]
            rest = [place for _, place, _ in going_on(data, first).records(1000)]
            assert begun + rest == [place for _, place, _ in from_the_beginning(data).records(1000)]
        append(writer, response(1), response(3))


def test_waiting_costs_the_same_with_any_number_of_segments(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle follower neither reads the directory again nor opens anything; a record that comes is read at once."""
    with journal(data, boot_id="before", segment_bytes=1) as writer:
        append(writer, *(record for number in range(20) for record in (request(number), response(number))))
    with journal(data) as writer:
        tails = from_the_beginning(data)
        assert len(read(tails)) == 40
        os.utime(data / "segments", (1, 1))
        read(tails)
        calls = Faults(monkeypatch)
        for name in ("open", "scandir"):
            calls.fail(name, times=0)
        for _ in range(100):
            assert read(tails) == []
            assert tails.behind_bytes() == 0
        assert calls.calls == []
        calls.heal()
        append(writer, request(100), response(100))
        assert read(tails) == [id_of(100)] * 2
