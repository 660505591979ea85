"""One exchange, told as transcripts: events in, records out."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.effects import Append, Effect, Spool, SpoolEnd
from extproc.core.events import Body, CloseReason, Direction, Event, Headers, Trailers
from extproc.core.exchange import ExchangeRecorder, Received, RecorderSettings
from extproc.core.records import encode
from extproc.core.redact import Redactor
from extproc.core.trace import TraceContext

MS = 1_000_000
START = 5_000 * MS
REQUEST, RESPONSE = Direction.REQUEST, Direction.RESPONSE
SETTINGS = RecorderSettings(Redactor(b"k" * 32), inline_body_bytes=1000, open_record_bytes=100)


def exchange(settings: RecorderSettings = SETTINGS, parent: str | None = None) -> ExchangeRecorder:
    """An exchange that starts at a known time with known ids."""
    trace = TraceContext("a" * 32, "b" * 16)
    return ExchangeRecorder(
        "the-id", settings, started_ns=1_732_150_800_000_000_000, started_at=START, trace=trace, parent=parent
    )


def headers(
    direction: Direction, *fields: tuple[str, bytes], end: bool = False, ms: int = 0, **attributes: Any
) -> Headers:
    """Headers `ms` after the start."""
    if not fields:
        fields = ((":method", b"POST"), (":path", b"/x")) if direction is REQUEST else ((":status", b"200"),)
    return Headers(
        direction, list(fields), end, START + ms * MS, {k.replace("__", "."): v for k, v in attributes.items()}
    )


def body(direction: Direction, data: bytes = b"", *, end: bool = False, ms: int = 0, **more: bool) -> Body:
    """A body message `ms` after the start."""
    return Body(direction, data, end, START + ms * MS, **more)


def trailers(direction: Direction, *fields: tuple[str, bytes], ms: int = 0) -> Trailers:
    """Trailers `ms` after the start."""
    return Trailers(direction, list(fields), START + ms * MS)


def play(events: Iterable[Event], target: ExchangeRecorder | None = None) -> list[Effect]:
    """All effects of these events in order."""
    target = target or exchange()
    return [effect for event in events for effect in target.receive(event).effects]


def records(effects: Iterable[Effect]) -> list[dict[str, Any]]:
    """The records among the effects."""
    return [json.loads(encode(effect.record)) for effect in effects if isinstance(effect, Append)]


def told(events: Sequence[Event], reason: CloseReason = CloseReason.CLOSED, ms: int = 9) -> list[dict[str, Any]]:
    """The records of a whole exchange: the events, then the close."""
    target = exchange()
    return records([*play(events, target), *target.close(reason, START + ms * MS)])


def ends(found: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """The type of each record and how its direction ended."""
    return [(record["type"], (record.get(record["type"]) or {}).get("ended_by")) for record in found]


GET = headers(REQUEST, end=True)
SILENCE = ("max_silence_ms", "silence_at_ms", "silence_at_byte")
ANSWER: list[Event] = [headers(RESPONSE, ms=2), body(RESPONSE, b"abc", end=True, ms=3)]


def test_a_get_and_its_answer_are_two_records() -> None:
    """The request's record comes with its headers, the terminal one with the answer's end."""
    target = exchange()
    assert ends(records(target.receive(GET).effects)) == [("request", "headers")]
    assert target.receive(ANSWER[0]) == Received()
    assert ends(records(target.receive(ANSWER[1]).effects)) == [("response", "end_of_stream")]
    assert target.close(CloseReason.CLOSED, START) == []


def test_the_records_say_what_passed_and_when() -> None:
    """Lengths, digests, times after the start, where it went."""
    answer_headers = headers(RESPONSE, ms=2, upstream__address="10.0.0.1:8000", xds__cluster_name="llm")
    request, response = told(
        [
            headers(REQUEST, ms=0, source__address="1.2.3.4:5"),
            body(REQUEST, b"hi", end=True, ms=1),
            answer_headers,
            ANSWER[1],
        ]
    )
    assert (request["client"], request["request"]["bytes"], request["request"]["body"]) == (
        "1.2.3.4:5",
        2,
        {"text": "hi"},
    )
    assert (request["started_at"], request["at"]) == ("2024-11-21T01:00:00.000000Z", "2024-11-21T01:00:00.001000Z")
    assert response["response"]["sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert (response["response"]["first_byte_ms"], response["response"]["last_byte_ms"]) == (2.0, 3.0)
    assert (response["duration_ms"], response["status"]) == (3.0, 200)
    assert (response["upstream"], response["cluster"], response["closed"]) == ("10.0.0.1:8000", "llm", None)


END_OF_A_REQUEST: dict[str, list[Event]] = {
    "end_of_stream": [headers(REQUEST), body(REQUEST, b"ab"), body(REQUEST, b"c", end=True)],
    "end_of_stream, empty": [headers(REQUEST), body(REQUEST, b"abc"), body(REQUEST, end=True)],
    "content_length": [headers(REQUEST, ("content-length", b"3")), body(REQUEST, b"abc"), body(REQUEST, end=True)],
    "trailers": [headers(REQUEST), body(REQUEST, b"abc"), trailers(REQUEST, ("x", b"1"))],
    "end_of_stream, buffered": [headers(REQUEST), body(REQUEST, b"abc", whole=True), trailers(REQUEST)],
    "end_of_stream, no headers": [body(REQUEST, b"abc", end=True)],
}


@pytest.mark.parametrize("ended_by", END_OF_A_REQUEST)
def test_every_way_in_which_a_body_ends_gives_one_record(ended_by: str) -> None:
    """The first end makes the record; what belongs to that end adds none and is not late."""
    (request, response) = told(END_OF_A_REQUEST[ended_by])
    assert (request["type"], request["request"]["ended_by"]) == ("request", ended_by.partition(",")[0])
    assert (request["request"]["bytes"], request["request"]["truncated"]) == (3, False)
    assert (response["type"], response["response"], response["protocol"]["late"]) == ("response", None, {})


def test_the_gate_stands_at_the_announced_last_byte() -> None:
    """The peer has everything then, so the reply to that message is the one that waits; the empty end does not."""
    target = exchange()
    target.receive(headers(REQUEST, ("content-length", b"3")))
    assert [effect.gate for effect in target.receive(body(REQUEST, b"abc")).effects if isinstance(effect, Append)] == [
        True
    ]
    assert target.receive(body(REQUEST, end=True)) == Received()


def test_an_end_that_comes_again_is_counted_and_changes_nothing() -> None:
    """envoyproxy/envoy#46237: the last chunk twice, with `end_of_stream` both times."""
    again = body(REQUEST, b"abc", end=True)
    request, response = told(
        [headers(REQUEST), again, again, body(REQUEST, b"xyz", end=True), body(REQUEST, end=True), *ANSWER]
    )
    assert (request["request"]["bytes"], request["request"]["body"]) == (3, {"text": "abc"})
    assert response["protocol"] == {
        "late": {"request.body": 3},
        "late_bytes": {"same": 1, "different": 1, "empty": 1},
        "duplicate_end_of_stream": 3,
    }


def test_data_in_the_end_after_the_last_byte_is_late_but_no_duplicate() -> None:
    """After the announced length, an end is owed and bytes are not."""
    events: list[Event] = [headers(REQUEST, ("content-length", b"3")), body(REQUEST, b"abc")]
    _, response = told([*events, body(REQUEST, b"more", end=True), *ANSWER])
    assert (response["protocol"]["late"], response["protocol"]["duplicate_end_of_stream"]) == ({"request.body": 1}, 0)


def test_what_is_late_for_the_terminal_record_is_reported_at_the_close() -> None:
    """A third record only then, and never a second terminal one."""
    found = told([GET, *ANSWER, body(RESPONSE, b"abc", end=True), trailers(RESPONSE)])
    assert [record["type"] for record in found] == ["request", "response", "late"]
    assert found[-1]["protocol"]["late"] == {"response.body": 1, "response.trailers": 1}


def test_trailers_behind_the_announced_last_byte_are_not_lost() -> None:
    """They are not late, the record was only made before them."""
    events: list[Event] = [
        GET,
        headers(RESPONSE, ("content-length", b"1")),
        body(RESPONSE, b"a"),
        trailers(RESPONSE, ("x-sum", b"9")),
    ]
    assert told(events)[-1]["trailers"] == {"response": [["x-sum", "9"]]}


def test_an_early_answer_never_ends_the_request() -> None:
    """The backend answers 400 in mid-upload: each direction has its own end, in its own time."""
    found = told([headers(REQUEST), body(REQUEST, b"a"), *ANSWER, body(REQUEST, b"bc", end=True)])
    assert ends(found) == [("response", "end_of_stream"), ("request", "end_of_stream")]
    assert found[1]["request"]["bytes"] == 3


def test_a_local_reply_before_us_has_a_response_only() -> None:
    """An earlier filter answered: Envoy shows the answer without its request."""
    (only,) = told(ANSWER)
    assert (only["type"], only["method"], only["response"]["bytes"]) == ("response", None, 3)


@pytest.mark.parametrize("reason", CloseReason)
def test_a_close_ends_what_is_unfinished_and_says_why(reason: CloseReason) -> None:
    """Whatever was open is aborted, marked as cut off, and the exchange has its terminal record."""
    in_upload = told([headers(REQUEST), body(REQUEST, b"ab")], reason)
    assert ends(in_upload) == [("request", reason.value), ("response", None)]
    assert (in_upload[0]["request"]["truncated"], in_upload[1]["closed"]) == (True, reason.value)
    in_answer = told([GET, ANSWER[0], body(RESPONSE, b"a")], reason)
    assert ends(in_answer) == [("request", "headers"), ("response", reason.value)]
    assert (in_answer[1]["response"]["truncated"], in_answer[1]["closed"]) == (True, reason.value)


@pytest.mark.parametrize("reason", CloseReason)
@pytest.mark.parametrize("direction", [REQUEST, RESPONSE])
def test_a_close_spools_the_last_bytes_too(direction: Direction, reason: CloseReason) -> None:
    """What had been gathered for the next batch belongs to a body that is cut off as well: none that came is lost."""
    target = exchange()
    if direction is RESPONSE:
        play([GET, ANSWER[0]], target)
    else:
        target.receive(headers(REQUEST))
    pieces = [b"a" * 1500, b"b" * 700, b"c"]
    effects = play([body(direction, piece) for piece in pieces], target)
    effects += target.close(reason, START)
    spooled = b"".join(piece for effect in effects if isinstance(effect, Spool) for piece in effect.data)
    assert spooled == b"".join(pieces)
    kinds = [type(effect) for effect in effects if not isinstance(effect, Append)]
    assert kinds == [Spool, Spool, SpoolEnd]
    part = next(record for record in records(effects) if record["type"] == direction.value)[direction.value]
    assert (part["bytes"], part["sha256"]) == (len(spooled), hashlib.sha256(spooled).hexdigest())
    assert part["ended_by"] == reason.value


def test_a_stream_without_a_message_leaves_nothing() -> None:
    """A probe of the port is not an exchange."""
    assert exchange().close(CloseReason.CANCELLED, START) == []


def test_a_body_that_outgrows_its_record_is_spooled_in_order_before_it() -> None:
    """Pieces, then the end of the file, then the record that refers to it."""
    effects = play(
        [headers(REQUEST), body(REQUEST, b"a" * 900), body(REQUEST, b"b" * 900), body(REQUEST, b"c", end=True)]
    )
    kinds = [type(effect) for effect in effects if not (isinstance(effect, Append) and not effect.gate)]
    assert kinds == [Spool, Spool, SpoolEnd, Append]
    spooled = b"".join(piece for effect in effects if isinstance(effect, Spool) for piece in effect.data)
    request = records(effects)[-1]["request"]
    assert (spooled, request["bytes"]) == (b"a" * 900 + b"b" * 900 + b"c", 1801)
    assert (request["sha256"], request["body"]) == (
        hashlib.sha256(spooled).hexdigest(),
        {"file": "bodies/the-id.request"},
    )


@pytest.mark.parametrize("direction", [REQUEST, RESPONSE])
def test_a_body_that_would_make_its_record_too_long_is_spooled_at_its_end(direction: Direction) -> None:
    """What has to be escaped becomes longer. The record names a file, and what the body says was read all the same."""
    target = exchange(RecorderSettings(Redactor(b"k" * 32), inline_body_bytes=2**24, open_record_bytes=2**24))
    escaped = b'{"model":"m","choices":[],"x":"' + b'\\"' * 4_500_000 + b'"}'
    path, status = (":path", b"/v1/chat/completions"), (":status", b"200")
    target.receive(headers(REQUEST, path, end=direction is RESPONSE))
    if direction is RESPONSE:
        target.receive(headers(RESPONSE, status))
    effects = list(target.receive(body(direction, escaped, end=True)).effects)
    opened = [] if direction is RESPONSE else [Append]  # before the file of a request
    assert [type(effect) for effect in effects] == [*opened, Spool, SpoolEnd, Append]
    spooled = b"".join(piece for effect in effects if isinstance(effect, Spool) for piece in effect.data)
    assert spooled == escaped
    last = records(effects)[-1]
    assert last[direction.value]["body"] == {"file": f"bodies/the-id.{direction.value}"}
    assert last["llm"]["model" if direction is REQUEST else "response_model"] == "m"


def test_an_unfinished_request_whose_body_is_too_long_for_a_record_is_noted_without() -> None:
    """Of an upload that has not ended no file is made; its `open` record has all but the body."""
    target = exchange(RecorderSettings(Redactor(b"k" * 32), inline_body_bytes=2**24, open_record_bytes=2**24))
    target.receive(headers(REQUEST))
    target.receive(body(REQUEST, b"\0" * 4_000_000))
    (opened,) = records(target.open_record(START))
    assert (opened["request"]["bytes"], opened["request"]["body"]) == (4_000_000, None)


def test_a_long_upload_gets_an_open_record_by_size() -> None:
    """After so many bytes the unfinished request has a record that nobody waits for, once."""
    target = exchange()
    target.receive(headers(REQUEST))
    (effect,) = target.receive(body(REQUEST, b"x" * 100)).effects
    assert isinstance(effect, Append)
    assert (effect.gate, json.loads(encode(effect.record))["type"]) == (False, "open")
    assert json.loads(encode(effect.record))["request"]["body"] == {"text": "x" * 100}
    assert target.receive(body(REQUEST, b"x")) == Received()
    assert target.open_record(START) == ()


def test_a_slow_upload_gets_an_open_record_by_time_while_it_is_unfinished() -> None:
    """The timer's call is harmless once the request has ended."""
    slow, done = exchange(), exchange()
    slow.receive(headers(REQUEST))
    play([headers(REQUEST), body(REQUEST, b"x", end=True)], done)
    assert [record["type"] for record in records(slow.open_record(START))] == ["open"]
    assert done.open_record(START) == ()


def test_a_refused_request_leaves_no_record() -> None:
    """What could not be recorded is counted elsewhere; our own 503 on its way is nobody's answer."""
    target = exchange()
    play([headers(REQUEST), body(REQUEST, b"x", end=True)], target)
    target.reject(recorded=False)
    assert play(ANSWER, target) == []
    assert target.close(CloseReason.CLOSED, START) == []


@pytest.mark.parametrize("opened", [True, False])
def test_a_refusal_of_what_the_journal_may_have_gets_a_terminal_record(opened: bool) -> None:
    """An exchange that is in the journal must not look unfinished."""
    target = exchange()
    target.receive(headers(REQUEST))
    if opened:
        target.open_record(START)
    target.reject(recorded=not opened)
    (terminal,) = records(target.close(CloseReason.CLOSED, START))
    assert (terminal["type"], terminal["rejected"], terminal["response"]) == ("response", True, None)


@pytest.mark.parametrize(
    ("parent", "header", "expected"),
    [
        (None, None, ("a" * 32, None, 1)),
        (None, f"00-{'c' * 32}-{'d' * 16}-00", ("c" * 32, "d" * 16, 0)),
        (f"00-{'e' * 32}-{'f' * 16}-01", f"00-{'c' * 32}-{'d' * 16}-00", ("e" * 32, "f" * 16, 1)),
        ("garbage", f"00-{'c' * 32}-{'d' * 16}-01", ("c" * 32, "d" * 16, 1)),
        ("garbage", "garbage", ("a" * 32, None, 1)),
    ],
)
def test_envoys_span_is_the_parent_before_the_clients(
    parent: str | None, header: str | None, expected: tuple[str, str | None, int]
) -> None:
    """gRPC metadata first, then the HTTP header, else a new root."""
    fields = [(":path", b"/x"), *([("traceparent", header.encode())] if header else [])]
    (request,) = records(exchange(parent=parent).receive(headers(REQUEST, *fields, end=True)).effects)
    assert (request["trace_id"], request["parent_span_id"], request["trace_flags"]) == expected
    assert request["span_id"] == "b" * 16


def test_a_body_that_envoy_cut_is_marked() -> None:
    """BUFFERED_PARTIAL over its limit: the rest is never shown, and the record says so."""
    (request, _) = told([headers(REQUEST), body(REQUEST, b"abc", whole=True, cut=True)])
    assert request["request"]["truncated"]


def test_trailers_carry_the_grpc_status() -> None:
    """A gRPC answer says in its trailers, under HTTP 200, how it went."""
    (_, response) = told([GET, ANSWER[0], body(RESPONSE, b"x"), trailers(RESPONSE, ("grpc-status", b"13"))])
    assert (response["grpc_status"], response["response"]["trailers"]) == ("13", [["grpc-status", "13"]])


def messages(direction: Direction) -> dict[str, Event]:
    """One of each kind of message."""
    return {
        "headers": headers(direction, ("content-length", b"3")),
        "headers_end": headers(direction, end=True),
        "body": body(direction, b"x"),
        "body_full": body(direction, b"xyz"),
        "body_end": body(direction, b"y", end=True),
        "trailers": trailers(direction, ("t", b"1")),
    }


MESSAGES = {f"{half.value}.{name}": event for half in Direction for name, event in messages(half).items()}


def check_conservation(names: Sequence[str]) -> None:
    """One record for each direction that began, one terminal record, whatever came in whatever order."""
    types = [record["type"] for record in told([MESSAGES[name] for name in names])]
    began = {name.partition(".")[0] for name in names}
    assert types.count("request") == ("request" in began), names
    assert types.count("response") == bool(names), names
    assert types.count("late") <= 1, names


def test_every_sequence_of_up_to_four_messages_is_conserved() -> None:
    """22,620 sequences of the twelve messages, then the close."""
    for length in range(5):
        for names in itertools.product(MESSAGES, repeat=length):
            check_conservation(names)


@given(st.lists(st.sampled_from(list(MESSAGES)), max_size=30))
def test_longer_sequences_are_conserved(names: list[str]) -> None:
    """The same promise for any length."""
    check_conservation(names)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], (None, None, None)),
        ([(b"abc", 900)], (None, None, None)),
        ([(b"abc", 900), (b"de", 903)], (3.0, 900.0, 3)),
        ([(b"abc", 3), (b"de", 10), (b"f", 50), (b"g", 60), (b"h", 99)], (40.0, 10.0, 5)),
        ([(b"abc", 3), (b"", 400), (b"de", 503)], (500.0, 3.0, 3)),
    ],
)
def test_the_longest_silence_within_an_answer(
    pieces: list[tuple[bytes, int]], expected: tuple[float | None, ...]
) -> None:
    """Between two pieces with bytes, not before the first nor after the last: how long, from when on, at which byte."""
    answer: list[Event] = [headers(RESPONSE, ms=2), *(body(RESPONSE, data, ms=ms) for data, ms in pieces)]
    (response,) = (each for each in told([GET, *answer], ms=9000) if each["type"] == "response")
    assert tuple(response["response"][name] for name in SILENCE) == expected


def test_a_silence_in_an_answer_of_any_size() -> None:
    """Also in one whose body has a file of its own, and counted in bytes of the body as it passed."""
    pieces = [body(RESPONSE, b"x" * 700, ms=ms) for ms in (3, 4, 5, 1005, 1006)]
    (response,) = (
        each for each in told([GET, headers(RESPONSE, ms=2), *pieces], ms=2000) if each["type"] == "response"
    )
    assert "file" in response["response"]["body"]
    assert tuple(response["response"][name] for name in SILENCE) == (1000.0, 5.0, 2100)


def test_what_a_message_did_is_one_value() -> None:
    """Whether it ended its direction, and whether it was late for it; a late one has no effects."""
    target = exchange()
    first = target.receive(headers(REQUEST))
    end = target.receive(body(REQUEST, b"x", end=True))
    late = [target.receive(each) for each in (body(REQUEST, b"x", end=True), headers(REQUEST), body(REQUEST))]
    assert (first, end.late, end.over) == (Received(), False, True)
    assert ends(records(end.effects)) == [("request", "end_of_stream")]
    assert late == [Received(late=True)] * 3
