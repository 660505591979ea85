"""What the journal covers: found again whatever the segment, and told from what was deleted or never written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.journals import abandon, access, append, id_of, journal, request, response, segments

from extproc.core.events import Direction
from extproc.core.record import encode
from extproc.core.times import timestamp
from extproc.history.coverage import Coverage
from extproc.journal import recovery, retention
from extproc.journal.writer import Journal

SECOND = 1_000_000_000
START = 1_763_694_720 * SECOND
"""2025-11-21T03:12:00Z: before the files' own times, as it is with a real journal."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def at(minute: float) -> int:
    """A minute of that night."""
    return START + int(minute * 60) * SECOND


def text(minute: float) -> str:
    """The same as it stands in a record."""
    return timestamp(at(minute))


def id_at(number: int) -> str:
    """The id of the exchange that begins in its minute."""
    return id_of(number, at(number))


class Clock:
    """The writer's clock, set by hand."""

    def __init__(self, minute: float) -> None:
        self.minute = minute

    def __call__(self) -> int:
        return at(self.minute)


@contextmanager
def writing(data: Path, clock: Clock, **settings: Any) -> Iterator[Journal]:
    """A journal written by this clock."""
    with journal(data, clock=clock, **settings) as writer:
        yield writer


def record(writer: Journal, clock: Clock, *numbers: int) -> None:
    """Exchanges, each in its minute."""
    for number in numbers:
        clock.minute = number
        append(writer, request(number, at=at(number)), response(number, at=at(number)))


def accesses(data: Path, **options: Any) -> list[str | None]:
    """The ids of the access entries, in their order."""
    return [entry.id for entry in Coverage([data]).accesses(**options)]


# Which exchanges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segment_bytes", [1, 64 * 1024 * 1024])
@pytest.mark.parametrize("compressed", [False, True])
def test_exchanges_are_found_in_whatever_segment(data: Path, segment_bytes: int, compressed: bool) -> None:
    """All those that have a record, and no other."""
    clock = Clock(0)
    with writing(data, clock, segment_bytes=segment_bytes) as writer:
        record(writer, clock, *range(6))
    if compressed:
        retention.compress_closed(data)
    names = [id_at(number) for number in range(9)]
    assert Coverage([data]).known(names, text(0), text(8)) == set(names[:6])
    for number in range(6):
        assert Coverage([data]).known(names, text(number), text(number)) >= {id_at(number)}


def test_only_the_segments_of_the_time_are_read(data: Path) -> None:
    """As long as all is found there."""
    clock = Clock(0)
    with writing(data, clock, segment_bytes=1) as writer:
        record(writer, clock, *range(20))
    read: list[str] = []
    assert Coverage([data], read.append).known([id_at(10)], text(10), text(10)) == {id_at(10)}
    assert 0 < len(read) < 10 < len(segments(data))


def test_a_record_that_came_late_is_found(data: Path) -> None:
    """After an outage of the journal its records come when it is over."""
    clock = Clock(0)
    with writing(data, clock, segment_bytes=1) as writer:
        record(writer, clock, 0, 1)
        clock.minute = 90
        append(writer, response(2, at=at(2)))
    assert Coverage([data]).known([id_at(2)], text(2), text(2)) == {id_at(2)}


@pytest.mark.parametrize("line", [request(0, at=START), request(0, at=START, type="open"), response(0, at=START)])
def test_any_record_of_its_own_is_enough(data: Path, line: bytes) -> None:
    """However the exchange ended, or has not."""
    with writing(data, Clock(0)) as writer:
        append(writer, line)
    assert Coverage([data]).known([id_at(0)], text(0), text(0)) == {id_at(0)}


def test_envoys_entry_alone_is_not_enough(data: Path) -> None:
    """It is what is to be held against the records."""
    with writing(data, Clock(0)) as writer:
        append(writer, access(0, at=START))
    assert Coverage([data]).known([id_at(0)], text(0), text(0)) == set()


@pytest.mark.parametrize(("best_effort", "found"), [(True, {"r-1"}), (False, set())])
def test_best_effort_exchanges_go_by_envoys_id(data: Path, best_effort: bool, found: set[str]) -> None:
    """Only there has Envoy no id of ours."""
    fields = {"type": "request", "id": id_at(0), "at": text(0), "request_id": "r-1", "best_effort": best_effort}
    with writing(data, Clock(0)) as writer:
        append(writer, encode(fields | {"method": '"best_effort":true,"request_id":"r-2"'}))
    assert Coverage([data]).known(["r-1", "r-2"], text(0), text(0)) == found


def test_several_directories(data: Path, tmp_path: Path) -> None:
    """Each may have some; one without segments has none."""
    other, empty = tmp_path / "other", tmp_path / "empty"
    for path in (other, empty):
        path.mkdir(mode=0o700)
    for number, directory in enumerate((data, other)):
        clock = Clock(number)
        with writing(directory, clock) as writer:
            record(writer, clock, number)
    names = [id_at(0), id_at(1)]
    assert Coverage([data, other, empty]).known(names, text(0), text(1)) == set(names)


def test_a_growing_segment_cut_anywhere(data: Path) -> None:
    """Half a line does not count, and harms nothing."""
    with writing(data, Clock(0)) as writer:
        append(writer, request(0, at=START), request(1, at=START))
    (path,) = (data / "segments").iterdir()
    whole = path.read_bytes()
    (last,) = [line for line in whole.splitlines(keepends=True) if id_of(1, START).encode() in line]
    names, end = [id_of(0, START), id_of(1, START)], whole.index(last)
    for cut in range(end, end + len(last)):
        path.write_bytes(whole[:cut])
        assert Coverage([data]).known(names, text(0), text(0)) == {names[0]}


def test_damaged_bytes_are_passed_over(data: Path) -> None:
    """Every byte of a line in turn; the line after it is found."""
    with writing(data, Clock(0)) as writer:
        append(writer, request(0, at=START), request(1, at=START))
    (path,) = (data / "segments").iterdir()
    whole = path.read_bytes()
    start = whole.index(b'{"type":"request"')
    for position in range(start, start + 100):
        path.write_bytes(whole[:position] + b"\xff" + whole[position + 1 :])
        assert id_of(1, START) in Coverage([data]).known([id_of(1, START)], text(0), text(0))


# Envoy's entries -----------------------------------------------------------------------------------------------


def test_entries_come_by_their_time(data: Path) -> None:
    """Across workers and segments."""
    clock = Clock(0)
    with writing(data, clock, segment_bytes=1) as first, writing(data, clock, worker=1) as second:
        for number in range(6):
            clock.minute = number
            append(second if number % 2 else first, access(number, at=at(number)))
        append(first, access(None, at=at(6)))
    assert accesses(data) == [*(id_at(number) for number in range(6)), None]


def test_entries_since_a_time(data: Path) -> None:
    """None that is asked for is missing; whole segments of before are not read."""
    clock = Clock(0)
    with writing(data, clock, segment_bytes=1) as writer:
        for number in range(10):
            clock.minute = number
            append(writer, access(number, at=at(number)))
    found = accesses(data, since=datetime.fromtimestamp(at(7) // SECOND, UTC))
    assert found[-3:] == [id_at(7), id_at(8), id_at(9)]
    assert len(found) < 8


# What is not covered -------------------------------------------------------------------------------------------


def test_since_when_there_is_a_journal(data: Path) -> None:
    """Since its first segment, and after retention since the first that is left."""
    assert Coverage([data]).since() == ""
    clock = Clock(0)
    with writing(data, clock, segment_bytes=1) as writer:
        record(writer, clock, *range(1, 6))
    assert Coverage([data]).since() == text(0)
    for name in segments(data)[:4]:
        (data / "segments" / name).unlink()
    assert text(1) < Coverage([data]).since() <= text(3)


def test_the_beginning_of_an_exchange_covers_nothing_else(data: Path) -> None:
    """What retention has reduced to the exchanges in flight is no time since which nothing was deleted."""
    clock = Clock(0)
    with writing(data, clock, segment_bytes=1) as writer:
        append(writer, request(100, at=at(0)))
        record(writer, clock, *range(1, 6))
        whole = Coverage([data]).since()
        retention.apply(data, days=0, segments=3, bytes=0, now_ns=at(10))
        assert whole < text(1) < Coverage([data]).since()
        append(writer, response(100, at=at(0)))


def test_when_a_sidecar_was_writing(data: Path) -> None:
    """From its first line to its end; of one that was killed, to its last record; of one that runs, until now."""
    clock = Clock(10)
    with writing(data, clock, boot_id="b1") as writer:
        record(writer, clock, 10, 20)
    clock.minute = 30
    with writing(data, clock, boot_id="b2") as writer:
        record(writer, clock, 30, 40)
        clock.minute = 41
        append(writer, request(41, at=at(41)))
        abandon(writer)
    recovery.recover(data, clock=lambda: at(50))
    clock.minute = 60
    with writing(data, clock, boot_id="b3"):
        coverage = Coverage([data])
        minutes = (9, 10, 15, 20, 25, 30, 41, 45, 50, 55, 60, 1000)
        written = [minute for minute in minutes if coverage.written_at(text(minute))]
    assert written == [10, 15, 20, 30, 41, 60, 1000]


def test_nobody_was_writing_an_empty_journal(data: Path) -> None:
    """At no time."""
    assert not Coverage([data]).written_at(text(0))


def test_a_gap_is_known_once_its_exchanges_were_looked_for(data: Path) -> None:
    """With its reason, between its times and a second around them; one of answers says nothing of requests."""
    clock = Clock(0)
    with writing(data, clock, segment_bytes=1) as writer:
        record(writer, clock, 0, 1)
        for direction, minute in ((Direction.REQUEST, 2), (Direction.REQUEST, 4), (Direction.RESPONSE, 9)):
            writer.gap(direction, "passed unrecorded: disk full", at(minute))
        record(writer, clock, 60)
    coverage = Coverage([data])
    assert coverage.known([id_at(3)], text(3), text(3)) == set()
    assert coverage.gap(text(3), text(3)) == "passed unrecorded: disk full"
    assert coverage.gap(text(4.01), text(4.01)) is not None
    assert coverage.gap(text(0), text(2)) is not None
    for minute in (1, 5, 9):
        assert coverage.gap(text(minute), text(minute)) is None


def test_segments_that_disappear_while_they_are_read(data: Path) -> None:
    """Retention may be faster; it is then known that they are gone."""
    clock = Clock(0)
    with writing(data, clock, segment_bytes=1) as writer:
        record(writer, clock, *range(4))

    def delete(name: str) -> None:
        (data / "segments" / name).unlink()

    coverage = Coverage([data], delete)
    assert coverage.known([id_at(1)], text(1), text(1)) == set()
    assert coverage.since() > text(1)
