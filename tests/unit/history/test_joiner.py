"""Records become final exchanges, each once, whatever their order, in bounded memory."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.exchanges import present
from support.journals import START_NS, access, id_of, request, response

from extproc.core.record import encode
from extproc.core.records import Body, of_fields
from extproc.core.records import id_of as record_id
from extproc.core.times import timestamp
from extproc.history.join import Exchange
from extproc.history.joiner import FOLLOWING, Joiner
from extproc.history.position import PositionedRecord, RecordPosition

SECOND = 1_000_000_000
NOW = timestamp(START_NS + 2 * SECOND)
LATE = timestamp(START_NS + 60 * SECOND)


def joiner(**policy: Any) -> Joiner:
    """One that follows, and began before everything here."""
    before: dict[str, Any] = {"entries_since": timestamp(START_NS - SECOND)}
    return Joiner(replace(FOLLOWING, **(before | policy)), lambda: START_NS - SECOND)


@pytest.fixture
def joining() -> Joiner:
    """The same, as it is for spans and metrics."""
    return joiner()


def add(joining: Joiner, *records: bytes) -> None:
    """Take records in, each from a place of its own."""
    for number, record in enumerate(records):
        joining.add(PositionedRecord(Path("data"), RecordPosition("w0-b", 1, number), of_fields(json.loads(record))))


def given(joining: Joiner, watermark: str = NOW) -> list[Exchange]:
    """What has become final."""
    return list(joining.final(watermark))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_order_gives_one_whole_exchange(joining: Joiner, order: tuple[int, ...]) -> None:
    """Once the last of its three records is there, and not again."""
    records = (request(1), response(1), access(1))
    add(joining, *(records[index] for index in order[:2]))
    assert given(joining) == []
    add(joining, records[order[2]])
    (exchange,) = given(joining)
    assert (exchange.outcome, exchange.access_log) == ("ok", "received")
    add(joining, *records)
    assert given(joining, LATE) == []
    assert joining.positions() == []


def test_an_entry_that_never_comes(joining: Joiner) -> None:
    """It is waited for as long as the records' time says, then the exchange is given without it."""
    add(joining, request(1), response(1))
    assert given(joining, timestamp(START_NS + 6 * SECOND)) == []
    (exchange,) = given(joining, timestamp(START_NS + 7 * SECOND))
    assert exchange.access_log == "missing"


def test_a_request_that_comes_after_its_answer(joining: Joiner) -> None:
    """An early answer waits a moment for it; an answer without one is given in the end."""
    add(joining, response(1), access(1))
    assert given(joining) == []
    add(joining, request(1))
    assert given(joining)[0].method == "POST"
    add(joining, response(2), access(2))
    (alone,) = given(joining, timestamp(START_NS + 3 * SECOND))
    assert alone.request is None


def test_an_orphan_is_final_without_an_entry(joining: Joiner) -> None:
    """After the same time as any other."""
    end = timestamp(START_NS + SECOND)
    add(joining, request(1), encode({"type": "orphan", "id": id_of(1), "at": end, "had": "request"}))
    (exchange,) = given(joining, LATE)
    assert exchange.outcome == "sidecar_restart_orphan"


def test_what_is_in_flight_is_not_given(joining: Joiner) -> None:
    """However late it gets, and not by the end of everything either."""
    add(joining, request(1))
    assert given(joining, LATE) == []
    assert list(joining.ended()) == []
    assert joining.positions() == [("w0-b", 1, 0)]


def test_the_rest(joining: Joiner) -> None:
    """At the end, what has ended is given with what is known."""
    add(joining, request(1), response(1))
    assert [exchange.id for exchange in joining.ended()] == [id_of(1)]
    assert list(joining.ended()) == []


def test_entries_without_an_exchange(joining: Joiner) -> None:
    """One that names none at once; one whose exchange never comes after its time; gaps, too."""
    gap = {"type": "gap", "at": NOW, "count": 3, "direction": "request", "why": "full"}
    add(joining, access(None), access(7), encode(gap))
    assert [record.type for record in joining.others(NOW)] == ["access", "gap"]
    assert joining.positions() == [("w0-b", 1, 1)]
    (stray,) = joining.others(LATE)
    assert record_id(stray) == id_of(7)
    assert joining.others(LATE) == []


def test_an_entry_of_an_exchange_before_our_time(joining: Joiner) -> None:
    """Whoever followed then has given it out: it is no stray."""
    before = START_NS - 10 * SECOND
    add(joining, access(3, at=before))
    assert joining.others(LATE) == []


def test_exchanges_that_began_before_the_first_start(joining: Joiner) -> None:
    """What comes of them is passed over."""
    joining.pass_over([id_of(1)])
    add(joining, response(1), access(1))
    assert given(joining, LATE) == []
    assert joining.others(LATE) == []


def test_bodies_are_let_go_of(joining: Joiner) -> None:
    """What they say of a model stays; with `keep_bodies` they stay themselves."""
    chat = b'{"model":"m","messages":[{"role":"user","content":"long"}]}'
    fields: dict[str, Any] = json.loads(request(1, chat)) | {"path": "/v1/chat/completions"}
    for keep, expected in ((False, None), (True, Body(text=chat.decode()))):
        joining = joiner(keep_bodies=keep)
        add(joining, encode(fields), response(1), access(1))
        (exchange,) = given(joining)
        assert present(exchange.llm).model == "m"
        assert exchange.body("request") == expected


def test_what_came_late_after_the_entry(joining: Joiner) -> None:
    """Both are written as the stream closes, in whatever order: it is waited for a moment."""
    protocol = {"late": {"request.body": 1}, "duplicate_end_of_stream": 0}
    soon = timestamp(START_NS + int(1.4 * SECOND))
    add(joining, request(1), response(1), access(1))
    assert given(joining, soon) == []
    add(joining, encode({"type": "late", "id": id_of(1), "at": soon, "protocol": protocol}))
    (exchange,) = given(joining)
    assert exchange.members()["protocol"] == protocol


def test_an_entry_before_its_exchange_survives_a_restart(joining: Joiner) -> None:
    """Its position is among those that are still needed, and the next joiner takes it as the first did."""
    entry = PositionedRecord(Path("data"), RecordPosition("w0-b", 1, 0), of_fields(json.loads(access(1))))
    joining.add(entry)
    assert joining.positions() == [entry.position]
    later = joiner(entries_since=LATE)
    later.restore([entry])
    add(later, request(1), response(1))
    assert [exchange.access_log for exchange in given(later)] == ["received"]


def test_more_that_wait_than_memory_may_hold() -> None:
    """The one that has waited longest is given as it is, and none is lost."""
    joining = joiner(most_waiting=2)
    for number in range(1, 6):
        add(joining, request(number), response(number))
    assert [exchange.id for exchange in given(joining, NOW)] == [id_of(1), id_of(2), id_of(3)]
    assert {exchange.id for exchange in joining.ended()} == {id_of(4), id_of(5)}


def test_too_many_at_once() -> None:
    """The oldest is given up and counted; memory is bounded."""
    joining = joiner(most_pending=3)
    add(joining, *(request(number) for number in range(1, 6)))
    assert (joining.given_up, len(joining.positions())) == (2, 3)
    add(joining, response(1), access(1), response(5), access(5))
    assert [exchange.id for exchange in given(joining)] == [id_of(5)]


HUNG: dict[str, Any] = {
    "request_id": "r",
    "upstream": None,
    "status": 504,
    "response_code_details": "ext_proc_error_per-message_timeout_exceeded",
}


def begun(number: int) -> bytes:
    """A request that Envoy knows by `r`."""
    return encode(json.loads(request(number)) | {"request_id": "r"})


def test_an_entry_that_is_an_exchange_by_itself(joining: Joiner) -> None:
    """Once its time has passed, each once, also when it is read again; and it is counted as one without an exchange."""
    entry = access(None, **HUNG)
    add(joining, entry)
    assert given(joining) == []
    assert list(joining.others(NOW)) == []
    assert joining.positions() == [("w0-b", 1, 0)]
    (exchange,) = given(joining, LATE)
    assert (exchange.outcome, exchange.class_, exchange.status) == ("recorder_failed", "sidecar", 504)
    assert [record_id(record) for record in joining.others(LATE)] == [exchange.id]
    add(joining, entry)
    assert given(joining, LATE) == []
    assert joining.positions() == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_an_entry_whose_exchange_comes_as_well(joining: Joiner, order: tuple[int, ...]) -> None:
    """The recorder had it all the same: one exchange, under its own id, with what the entry says."""
    answer = json.loads(response(1)) | {"status": None, "response": None, "closed": "cancelled"}
    records = (begun(1), encode(answer), access(None, **HUNG))
    add(joining, *(records[index] for index in order))
    (exchange,) = given(joining, LATE)
    assert (exchange.id, exchange.outcome, exchange.access_log) == (id_of(1), "recorder_failed", "received")
    assert joining.others(LATE) == []
    assert joining.positions() == []


def test_an_exchange_that_comes_long_after_its_entry(joining: Joiner) -> None:
    """The entry was given already; the exchange says the same."""
    add(joining, access(None, **HUNG))
    (alone,) = given(joining, LATE)
    answer = json.loads(response(1)) | {"status": None, "response": None, "closed": "cancelled"}
    add(joining, begun(1), encode(answer))
    (exchange,) = given(joining, LATE)
    assert exchange.id == id_of(1) != alone.id
    assert exchange.outcome == "recorder_failed"


def test_other_records_change_nothing(joining: Joiner) -> None:
    """Heads and ends of segments, and types that a newer version writes."""
    add(
        joining,
        encode({"type": "segment", "at": NOW}),
        encode({"type": "end", "at": NOW}),
        encode({"type": "new", "at": NOW}),
    )
    assert given(joining, LATE) == []
    assert joining.others(LATE) == []


def shared(**policy: Any) -> Joiner:
    """One that keeps what it has given until it has settled."""
    joining = joiner(**policy)
    joining.adopt(joiner())
    return joining


def test_given_by_the_time_of_day_and_settled_by_that_of_the_records() -> None:
    """Each once: without the entry that had not come in time, and with it. In between its places are needed still, but
    no more by who has been given it."""
    joining = shared()
    add(joining, request(1), response(1))
    assert [exchange.access_log for exchange in given(joining, LATE)] == ["missing"]
    assert (joining.positions(), joining.settled()) == ([], [])
    assert len(joining.unsettled()) == 2
    add(joining, access(1))
    assert given(joining, LATE) == []
    assert joining.settled() == []
    add(joining, request(2, at=START_NS + 60 * SECOND))
    assert [(exchange.id, exchange.access_log) for exchange in joining.settled()] == [(id_of(1), "received")]
    assert joining.settled() == []
    assert len(joining.unsettled()) == 1


def test_what_is_given_late_has_settled_with_that() -> None:
    """The records' own time has passed: it is given and settled as the same."""
    joining = shared()
    add(joining, request(1), response(1), access(1), request(2, at=START_NS + 60 * SECOND))
    (exchange,) = given(joining, joining.read_until)
    assert joining.settled() == [exchange]


def test_an_entry_that_is_told_of_is_its_exchanges_still() -> None:
    """By the time of day its exchange has not come, by that of the records it may."""
    joining = shared()
    add(joining, access(1))
    assert [record.type for record in joining.others(LATE)] == ["access"]
    assert (joining.positions(), len(joining.unsettled())) == ([], 1)
    add(joining, request(1), response(1), request(2, at=START_NS + 60 * SECOND))
    assert [exchange.access_log for exchange in given(joining, LATE)] == ["received"]
    add(joining, access(3, at=START_NS + 119 * SECOND), request(4, at=START_NS + 120 * SECOND))
    joining.others(timestamp(START_NS + 130 * SECOND))
    assert len(joining.unsettled()) == 3, "of two requests in flight, and of an entry"
    add(joining, request(5, at=START_NS + 200 * SECOND))
    joining.others(timestamp(START_NS + 200 * SECOND))
    assert len(joining.unsettled()) == 3, "of three requests in flight"


def test_bodies_are_kept_for_who_is_given_them_alone() -> None:
    """What waits to settle has what they say in their places."""
    joining = shared(keep_bodies=True)
    body = b'{"model":"m"}'
    add(joining, encode(json.loads(request(1, body)) | {"path": "/v1/completions"}), response(1))
    (exchange,) = given(joining, LATE)
    assert exchange.body("request") is not None
    add(joining, request(2, at=START_NS + 60 * SECOND))
    (settled,) = joining.settled()
    assert (settled.body("request"), present(settled.llm).model) == (None, "m")


def test_who_lets_go_has_nothing_settled() -> None:
    """Only what was not given is kept then, and what was given is not given again."""
    joining = shared()
    add(joining, request(1), response(1))
    assert len(given(joining, LATE)) == 1
    joining.release()
    assert joining.unsettled() == []
    add(joining, access(1), request(2, at=START_NS + 60 * SECOND))
    assert given(joining, LATE) == []
    assert joining.settled() == []


def test_more_that_settle_than_memory_may_hold() -> None:
    """The oldest settles as it is, and is not counted as given up."""
    joining = shared(most_pending=3)
    for number in range(1, 6):
        add(joining, request(number), response(number))
        given(joining, LATE)
    assert [exchange.id for exchange in joining.settled()] == [id_of(1), id_of(2)]
    assert joining.given_up == 0
