"""What is kept while a journal cannot be written, and when it is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.journals import appended, id_of, request, response

from extproc.core.events import Direction
from extproc.core.records import Gap, Response
from extproc.journal.flight import Flight
from extproc.journal.outage import Outage
from extproc.journal.spool import Entry

REFUSED = (Direction.REQUEST, "refused")


def entry(line: bytes) -> Entry:
    """A record as the writer has it."""
    return Entry.of(appended(line).record)


@pytest.fixture
def flight() -> Flight:
    """Exchange 1 has begun on disk."""
    flight = Flight()
    flight.note("request", id_of(1))
    return flight


def test_it_pauses_between_two_attempts(tmp_path: Path, flight: Flight) -> None:
    """From the failure on, until the next attempt is due, and no more once the journal was written."""
    for seconds, pauses in ((3600.0, True), (0.0, False)):
        outage = Outage(tmp_path, flight, seconds)
        assert not outage.pauses
        error = outage.begin("No space left on device")
        assert outage.failure is error
        assert str(error) == f"{tmp_path}/segments: the journal cannot be written: No space left on device"
        assert outage.pauses is pauses
        outage.end()
        assert [outage.failure, outage.pauses] == [None, False]


def test_its_beginning_and_its_end_are_said_once(
    tmp_path: Path, flight: Flight, caplog: pytest.LogCaptureFixture
) -> None:
    """However many attempts fail in between."""
    outage = Outage(tmp_path, flight, 0.0)
    outage.end()
    for why in ("EIO", "EIO", "ENOSPC"):
        outage.begin(why)
    outage.end()
    outage.end()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_gaps_are_counted_by_direction_and_reason(tmp_path: Path, flight: Flight) -> None:
    """One record for each, from the first of its times to the last."""
    outage = Outage(tmp_path, flight, 0.0)
    seen = [outage.is_pending]
    outage.count_gap(REFUSED, 5, 6, 1)
    outage.count_gap(REFUSED, 2, 3, 2)
    outage.count_gap((Direction.RESPONSE, "refused"), 4, 4, 1)
    seen.append(outage.is_pending)
    pending = outage.take()
    seen.append(outage.is_pending)
    assert seen == [False, True, False]
    assert pending.gaps[REFUSED] == [2, 6, 3]
    records = [each.record for each in pending.entries(0)]
    assert [(each.direction, each.count) for each in records if isinstance(each, Gap)] == [
        ("request", 3),
        ("response", 1),
    ]


def test_the_end_of_what_has_begun_is_kept_without_its_body(tmp_path: Path, flight: Flight) -> None:
    """The end of nothing that is on disk is not, nor is a request."""
    outage = Outage(tmp_path, flight, 0.0)
    assert not outage.keep([entry(request(2)), entry(response(2))], keep_file=False)
    assert outage.keep([entry(response(1, b"secret"))], keep_file=False)
    (kept,) = outage.take().entries(0)
    assert isinstance(kept.record, Response)
    assert kept.record.id == id_of(1)
    assert b"secret" not in kept.line


def test_what_was_given_back_is_given_out_again(tmp_path: Path, flight: Flight) -> None:
    """With what was counted meanwhile."""
    outage = Outage(tmp_path, flight, 0.0)
    outage.keep([entry(response(1))], keep_file=False)
    outage.count_gap(REFUSED, 5, 6, 1)
    pending = outage.take()
    outage.count_gap(REFUSED, 7, 7, 1)
    outage.give_back(pending)
    again = outage.take()
    assert list(again.terminal) == [id_of(1)]
    assert again.gaps[REFUSED] == [5, 7, 2]


def test_what_has_ended_since_is_not_written_twice(tmp_path: Path, flight: Flight) -> None:
    """Its owner has submitted it again, and it is on disk."""
    outage = Outage(tmp_path, flight, 0.0)
    outage.keep([entry(response(1))], keep_file=False)
    flight.note("response", id_of(1))
    assert outage.take().terminal == {}
