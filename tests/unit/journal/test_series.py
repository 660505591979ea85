"""The segments that one writer thread makes, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.journals import START_NS, Faults, appended, id_of, records, request, response, segments

from extproc.core.times import timestamp
from extproc.journal.directory import DataDirectory, FreeSpace
from extproc.journal.series import SeriesWriter
from extproc.journal.spool import Entry

HOUR = 3_600_000_000_000


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START_NS

    def __call__(self) -> int:
        return self.now


@contextmanager
def series(path: Path, clock: Clock, *, floor: int = 0, **settings: Any) -> Iterator[SeriesWriter]:
    """A series whose first segment has begun. It is not finished at the end."""
    usual: dict[str, Any] = {
        "sync": True, "segment_bytes": 10**9, "segment_seconds": 0.0, "recover": lambda: None, "retry_seconds": 0.0,
        "look_seconds": 0.0,
    }  # fmt: skip
    with DataDirectory(path) as directory:
        writer = SeriesWriter(path, 0, "b1", clock=clock, **(usual | settings))
        writer.begin(directory, FreeSpace(directory.segments, floor))
        yield writer
        writer.set_aside()


def entries(*lines: bytes) -> list[Entry]:
    """Records as the writer has them."""
    return [Entry.of(appended(line).record) for line in lines]


@pytest.fixture
def clock() -> Clock:
    """The time of the series."""
    return Clock()


def test_a_series_that_ends_has_its_footer(tmp_path: Path, clock: Clock) -> None:
    """With the number of its records; the segment is closed."""
    with series(tmp_path, clock) as writer:
        assert writer.write(entries(request(1), response(1))) is None
        writer.finish()
    assert segments(tmp_path) == ["w0-b1-000001.jsonl"]
    assert [(each["type"], each["seq"]) for each in records(tmp_path)] == [
        ("segment", 1), ("request", 2), ("response", 3), ("end", 4)
    ]  # fmt: skip


def test_with_an_exchange_in_flight_the_segment_stays_open(tmp_path: Path, clock: Clock) -> None:
    """Recovery ends both."""
    with series(tmp_path, clock) as writer:
        assert writer.write(entries(request(1))) is None
        writer.flight.note("request", id_of(1))
        writer.finish()
    assert segments(tmp_path) == ["w0-b1-000001.jsonl.open"]


@pytest.mark.parametrize(
    ("settings", "later_ns", "rotates"),
    [
        ({}, HOUR // 60, False),
        ({"segment_bytes": 1}, 0, True),
        ({"segment_seconds": 60.0}, HOUR // 60 - 1, False),
        ({"segment_seconds": 60.0}, HOUR // 60, True),
        ({}, 24 * HOUR, True),
    ],
    ids=["as usual", "full", "not old enough", "old", "of another day"],
)
def test_when_a_segment_is_due(
    tmp_path: Path, clock: Clock, settings: dict[str, Any], later_ns: int, rotates: bool
) -> None:
    """The next one has begun when the old one is closed, and notes what is in flight."""
    with series(tmp_path, clock, **settings) as writer:
        writer.write(entries(request(1)))
        writer.flight.note("request", id_of(1))
        clock.now += later_ns
        writer.rotate_if_due()
        closed = ["w0-b1-000001.jsonl", "w0-b1-000002.jsonl.open"]
        assert segments(tmp_path) == (closed if rotates else ["w0-b1-000001.jsonl.open"])
    heads = records(tmp_path, type="segment")
    assert [each["in_flight"] for each in heads] == [{}, {id_of(1): "request"}][: len(heads)]


def test_a_segment_without_records_is_not_ended(tmp_path: Path, clock: Clock) -> None:
    """Whatever is due: an idle worker leaves no empty segment a day."""
    with series(tmp_path, clock, segment_bytes=1, segment_seconds=1.0) as writer:
        clock.now += 48 * HOUR
        writer.rotate_if_due()
        assert segments(tmp_path) == ["w0-b1-000001.jsonl.open"]


@pytest.mark.parametrize(("times", "written"), [(1, True), (2, False)])
def test_after_a_failed_sync_the_records_go_to_the_next_segment(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, times: int, written: bool
) -> None:
    """Once: a file whose sync has failed is not written again. When that fails too, the reason is given."""
    with series(tmp_path, clock) as writer:
        Faults(monkeypatch).fail("fdatasync", times=times)
        why = writer.write(entries(request(1)))
        assert (why is None) is written
        assert "Input/output error" in (why or "Input/output error")
        assert len(segments(tmp_path)) == (2 if written else 1)  # one that cannot be begun is removed again


def test_without_room_nothing_is_written(tmp_path: Path, clock: Clock) -> None:
    """The floor of free space is asked before each batch."""
    with series(tmp_path, clock, floor=2**62) as writer:
        assert writer.write(entries(request(1))) is not None
    assert records(tmp_path, type="request") == []


def test_the_predecessor_is_recovered_before_the_first_segment(tmp_path: Path, clock: Clock) -> None:
    """Once, however many segments follow."""
    calls: list[list[str]] = []
    with series(tmp_path, clock, segment_bytes=1, recover=lambda: calls.append(segments(tmp_path))) as writer:
        for number in (1, 2):
            writer.write(entries(request(number), response(number)))
            writer.rotate_if_due()
    assert calls == [[]]


@pytest.mark.parametrize("boot_id", ["", "a b", "a/b"])
def test_a_boot_id_has_a_form(boot_id: str) -> None:
    """It is a part of file names."""
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        SeriesWriter(
            Path(), 0, boot_id, sync=True, segment_bytes=1, segment_seconds=0.0, clock=Clock(), recover=lambda: None,
            retry_seconds=0.0, look_seconds=0.0,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("jump_ns", "says"), [(-HOUR, True), (-HOUR // 60, True), (-HOUR // 3600, False), (HOUR, False)]
)
def test_a_clock_that_is_set_back_ends_a_segment(tmp_path: Path, clock: Clock, jump_ns: int, says: bool) -> None:
    """The head of the next one tells up to when those before it were written; a second is none of that."""
    with series(tmp_path, clock) as writer:
        for each in (request(1), response(1)):
            assert writer.write(entries(each)) is None
            writer.rotate_if_due()
            clock.now += jump_ns
    heads = records(tmp_path, type="segment")
    assert [head.get("latest") for head in heads] == [None, *([timestamp(START_NS)] if says else [])]
