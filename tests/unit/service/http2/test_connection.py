"""One connection: frames in, frames out, and what becomes of those that are wrong."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from support.http2 import GREETING, Frame, Wire, block, data, fields, goaway, headers, message, parse, resets

from extproc.core.events import CloseReason
from extproc.service.http2 import frames
from extproc.service.http2.connection import CONNECTION_WINDOW, MAX_IDLE_FRAMES, REMEMBERED
from extproc.service.http2.fields import MAX_BLOCK, MAX_LIST
from extproc.service.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    frame,
    rst_stream,
    window_update,
)
from extproc.service.http2.stream import STREAM_WINDOW
from extproc.service.transport import HEALTH_CHECK, HEALTH_WATCH

CANCEL = rst_stream(1, Code.CANCEL)


def setting(name: int, value: int) -> bytes:
    """A SETTINGS frame with one setting."""
    return frame(SETTINGS, 0, 0, struct.pack(">HI", name, value))


# -- the usual ------------------------------------------------------------------------------------------------------


def test_a_call_from_its_beginning_to_its_end() -> None:
    """Response headers with the first reply, a reply a message, trailers with the status."""
    wire = Wire(greet=False)
    (settings, window) = wire.said()
    assert (settings.kind, window.kind) == (SETTINGS, WINDOW_UPDATE)
    assert [each.flags for each in wire.send(GREETING)] == [ACK]
    opened = wire.send(headers(), data(1, message(b"one")))
    assert [each.kind for each in opened] == [HEADERS, DATA]
    assert wire.messages(opened) == [b"one"]
    assert [each.kind for each in wire.send(data(1, message(b"two")))] == [DATA]
    ended = wire.send(data(1, b"", end=True))
    assert wire.trailers(ended) == {"grpc-status": "0"}
    assert resets(ended) == {}
    assert wire.fake.next() == ("closed", CloseReason.CLOSED)
    assert wire.server.open == 0


@pytest.mark.parametrize("cut", range(1, 20))
def test_messages_split_over_frames(cut: int) -> None:
    """Wherever: in the flag, in the length, in the message, over three frames. An empty one has no reply here."""
    wire = Wire()
    framed = message(b"one") + message(b"") + message(b"two")
    said = wire.send(headers(), data(1, framed[:cut]), data(1, framed[cut : cut + 1]), data(1, framed[cut + 1 :]))
    assert wire.messages(said) == [b"one", b"two"]


def test_messages_that_share_a_frame() -> None:
    """Each has its reply, in order."""
    wire = Wire()
    said = wire.send(headers(), data(1, b"".join(message(b"%d" % number) for number in range(50)), end=True))
    assert wire.messages(said) == [b"%d" % number for number in range(50)]
    assert wire.trailers(said) == {"grpc-status": "0"}


def test_padding_and_priority_mean_nothing() -> None:
    """On HEADERS and DATA."""
    wire = Wire()
    padded = b"\x03" + b"\0\0\0\0\x10" + block(fields()) + b"\0\0\0"
    said = wire.send(
        frame(HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 1, padded),
        frame(PRIORITY, 0, 1, b"\0\0\0\0\x01"),
        frame(DATA, PADDED, 1, b"\x02" + message(b"one") + b"\0\0"),
        frame(DATA, PADDED | END_STREAM, 1, b"\x02\0\0"),
    )
    assert wire.messages(said) == [b"one"]
    assert wire.trailers(said) == {"grpc-status": "0"}


def test_a_header_block_in_many_pieces() -> None:
    """CONTINUATION after CONTINUATION, a byte each."""
    wire = Wire()
    whole = block(fields())
    pieces = [frame(frames.CONTINUATION, 0, 1, whole[at : at + 1]) for at in range(1, len(whole))]
    said = wire.send(
        frame(HEADERS, 0, 1, whole[:1]),
        *pieces,
        frame(frames.CONTINUATION, END_HEADERS, 1),
        data(1, message(b"one")),
    )
    assert wire.messages(said) == [b"one"]


def test_a_ping_is_answered() -> None:
    """With what it brought; an answer is not."""
    wire = Wire()
    assert wire.send(frame(PING, 0, 0, b"12345678")) == [Frame(PING, ACK, 0, b"12345678")]
    assert wire.send(frame(PING, ACK, 0, b"12345678")) == []


def test_what_is_unknown_is_passed_over() -> None:
    """Frames, flags and settings of extensions."""
    wire = Wire()
    assert wire.send(frame(77, 0xFF, 5, b"what"), setting(77, 1))[-1:] == [Frame(SETTINGS, ACK, 0, b"")]
    assert wire.messages(wire.send(headers(), frame(DATA, 0x40, 1, message(b"one")))) == [b"one"]


def _recorded(checkout: Path) -> bytes:
    return (checkout / "tests" / "fixtures" / "http2" / "envoy.bin").read_bytes()


def _answer(*parts: bytes) -> tuple[list[Frame], int, list[tuple[Any, ...]]]:
    wire = Wire(greet=False)
    said = wire.send(*parts)
    events = []
    while not wire.fake.events.empty():
        events.append(wire.fake.next())
    return said, len(wire.fake.processors), events


def test_a_conversation_byte_by_byte(checkout: Path) -> None:
    """What a real Envoy said is answered as if it had come at once."""
    spoken = _recorded(checkout)
    whole = _answer(spoken)
    assert whole[1] == 7
    assert sum(each.kind == DATA for each in whole[0]) == 28
    assert _answer(*(spoken[at : at + 1] for at in range(len(spoken)))) == whole


@pytest.mark.slow
def test_a_conversation_cut_anywhere(checkout: Path) -> None:
    """In two pieces, at every byte."""
    spoken = _recorded(checkout)
    whole = _answer(spoken)
    for at in range(1, len(spoken)):
        assert _answer(spoken[:at], spoken[at:]) == whole


# -- flow control ---------------------------------------------------------------------------------------------------


def test_replies_wait_for_the_client_s_window() -> None:
    """Of the stream and of the connection; what fits is sent, the rest with the window."""
    wire = Wire()
    wire.send(setting(frames.INITIAL_WINDOW_SIZE, 10))
    said = wire.send(headers(), data(1, message(b"x" * 30), end=True))
    assert sum(len(each.payload) for each in said if each.kind == DATA) == 10
    assert wire.trailers(said) == {}
    said += wire.send(window_update(1, 1))
    said += wire.send(setting(frames.INITIAL_WINDOW_SIZE, 20))
    assert sum(len(each.payload) for each in said if each.kind == DATA) == 21
    said += wire.send(window_update(1, 100))
    assert wire.messages(said) == [b"x" * 30]
    assert wire.trailers(said) == {"grpc-status": "0"}


def test_a_client_that_reads_nothing_is_not_read_from() -> None:
    """While a reply waits for its window no more messages are taken, and no more window is given."""
    wire = Wire()
    wire.send(setting(frames.INITIAL_WINDOW_SIZE, 0), headers())
    sent, chunk = 0, message(b"x" * 10_000)
    while sent + len(chunk) <= STREAM_WINDOW:
        said = wire.send(data(1, chunk))
        assert [each for each in said if each.kind == WINDOW_UPDATE and each.stream_id] == []
        sent += len(chunk)
    (stream,) = wire.connection.streams.values()
    assert sum(map(len, stream.backlog)) == len(chunk)
    assert resets(wire.send(data(1, chunk))) == {1: Code.FLOW_CONTROL_ERROR}


def test_a_thousand_slow_readers() -> None:
    """Each costs the one reply that waits, however much it sends; each gets all of its replies when it reads."""
    wire, streams = Wire(max_streams=1000), range(1, 2001, 2)
    wire.send(setting(frames.INITIAL_WINDOW_SIZE, 0), window_update(0, 2**30))
    for stream_id in streams:
        said = wire.send(headers(stream_id), *(data(stream_id, message(b"%d" % stream_id)) for _ in range(5)))
        assert [each for each in said if each.kind in {DATA, RST_STREAM}] == []
    assert len(wire.connection.streams) == 1000
    assert {len(stream.backlog) for stream in wire.connection.streams.values()} == {1}
    for stream_id in reversed(streams):
        said = wire.send(window_update(stream_id, 2**20), data(stream_id, b"", end=True))
        assert wire.messages(said, stream_id) == [b"%d" % stream_id] * 5
        assert wire.trailers(said, stream_id) == {"grpc-status": "0"}
    assert wire.server.open == 0


def test_a_shut_gate_gives_no_window() -> None:
    """And when it opens, what was taken is given back, and the messages that came since are taken in order."""
    wire = Wire()
    wire.send(setting(frames.INITIAL_WINDOW_SIZE, 2**30), window_update(0, 2**30))
    wire.send(headers(), data(1, message(b"gate")))
    said = []
    for number in range(14):
        said += wire.send(data(1, message(b"%d" % number + b"x" * 9990)))
    assert said == []
    wire.fake.gate()(b"opened")
    said = wire.said()
    assert wire.messages(said)[0] == b"opened"
    assert [each[:2] for each in wire.messages(said)[11:]] == [b"10", b"11", b"12", b"13"]
    (update,) = [each for each in said if each.kind == WINDOW_UPDATE]
    assert update.stream_id == 1
    assert int.from_bytes(update.payload, "big") > STREAM_WINDOW // 2


def test_window_is_given_back_in_time() -> None:
    """A client that keeps to its windows can send without end."""
    wire = Wire()
    wire.send(window_update(0, 2**30), setting(frames.INITIAL_WINDOW_SIZE, 2**30), headers())
    connection, stream = CONNECTION_WINDOW, STREAM_WINDOW
    payload = message(b"quiet" * 3000)
    for _ in range(3000):
        connection -= len(payload)
        stream -= len(payload)
        assert min(connection, stream) >= 0
        for each in wire.send(data(1, payload)):
            if each.kind == WINDOW_UPDATE:
                more = int.from_bytes(each.payload, "big")
                connection, stream = connection + more * (not each.stream_id), stream + more * bool(each.stream_id)


def test_backlogs_take_turns() -> None:
    """When the connection's window opens, no stream waits for another's whole reply."""
    wire = Wire()
    wire.send(setting(frames.INITIAL_WINDOW_SIZE, 2**30))
    for stream_id in (1, 3, 5, 7):
        wire.send(headers(stream_id), data(stream_id, (message(b"x" * 60_000))[:16_000]))
        for at in (16_000, 32_000, 48_000):
            wire.send(data(stream_id, (message(b"x" * 60_000))[at : at + 16_000]))
    said = wire.send(window_update(0, 70_000))
    assert {each.stream_id for each in said if each.kind == DATA} == {3, 5, 7}
    said = wire.send(window_update(0, 10**6))
    assert {each.stream_id for each in said if each.kind == DATA} == {3, 5, 7}
    assert wire.connection.blocked == {}


def test_frames_keep_to_the_client_s_size() -> None:
    """16 KiB, or more where the client takes more."""
    wire = Wire()
    wire.send(setting(frames.INITIAL_WINDOW_SIZE, 2**30), window_update(0, 2**30), headers())
    framed = message(b"x" * 40_000)
    pieces = [data(1, framed[at : at + 16_384]) for at in range(0, len(framed), 16_384)]
    assert max(len(each.payload) for each in wire.send(*pieces)) == 16_384
    wire.send(setting(frames.MAX_FRAME_SIZE, 30_000))
    assert max(len(each.payload) for each in wire.send(*pieces)) == 30_000


# -- ends -----------------------------------------------------------------------------------------------------------


def test_a_stream_that_we_end_first_tells_the_client_to_stop() -> None:
    """RST_STREAM(NO_ERROR) after the trailers; what was under way is no fault, also its end."""
    wire = Wire()
    said = wire.send(headers(), data(1, message(b"boom")))
    assert wire.trailers(said)["grpc-status"] == "13"
    assert (said[-1].kind, said[-1].code) == (RST_STREAM, Code.NO_ERROR)
    assert wire.send(data(1, message(b"late")), data(1, b"", end=True), window_update(1, 5)) == []
    assert goaway(wire.send(data(1, b"x"))) == Code.STREAM_CLOSED


@pytest.mark.parametrize(
    ("payload", "flag", "changes", "status"),
    [
        (b"x", 1, (("grpc-encoding", "gzip"),), "12"),
        (b"x", 1, (), "13"),
        (b"x", 2, (("grpc-encoding", "gzip"),), "13"),
    ],
)
def test_compressed_messages(payload: bytes, flag: int, changes: tuple[tuple[str, str], ...], status: str) -> None:
    """UNIMPLEMENTED, with what would be accepted; INTERNAL where no encoding was announced."""
    wire = Wire()
    trailers = wire.trailers(wire.send(headers(1, *changes), data(1, message(payload, flag))))
    assert trailers["grpc-status"] == status
    assert ("grpc-accept-encoding" in trailers) == (status == "12")
    assert wire.fake.next() == ("closed", CloseReason.CANCELLED)


def test_a_message_that_is_cut() -> None:
    """END_STREAM in the middle of one: an error, and the processor hears that it was cut off."""
    wire = Wire()
    assert wire.trailers(wire.send(headers(), data(1, message(b"one")[:-1], end=True)))["grpc-status"] == "13"
    assert wire.fake.next() == ("closed", CloseReason.CANCELLED)


def test_a_half_close_behind_a_gate() -> None:
    """The end waits for the gate and for the messages after it."""
    wire = Wire()
    assert wire.send(headers(), data(1, message(b"gate")), data(1, message(b"two"), end=True)) == []
    wire.fake.gate()(b"one")
    said = wire.said()
    assert wire.messages(said) == [b"one", b"two"]
    assert wire.trailers(said) == {"grpc-status": "0"}


def test_the_connection_goes_with_its_streams() -> None:
    """Each processor hears of it once, with a gate when that has opened."""
    wire = Wire()
    wire.send(headers(1), data(1, message(b"gate")), headers(3), data(3, message(b"one")))
    wire.connection.lost()
    assert wire.fake.next() == ("closed", CloseReason.CANCELLED)
    assert wire.server.open == 1
    wire.fake.gate()(b"late")
    assert wire.said() == []
    assert wire.fake.next() == ("closed", CloseReason.CANCELLED)
    assert wire.server.open == 0
    assert [len(each.closings) for each in wire.fake.processors] == [1, 1]


def test_a_drain_takes_what_is_on_its_way() -> None:
    """GOAWAY twice, with a PING between: streams that crossed the first are served, those after the second refused."""
    wire = Wire()
    wire.send(headers(1), data(1, message(b"one")))
    wire.connection.drain()
    (first, ping) = wire.said()
    assert (first.kind, first.payload[:4]) == (frames.GOAWAY, (2**31 - 1).to_bytes(4, "big"))
    assert wire.messages(wire.send(headers(3), data(3, message(b"three"))), 3) == [b"three"]
    (second,) = wire.send(frame(PING, ACK, 0, ping.payload))
    assert (second.kind, second.payload[:4]) == (frames.GOAWAY, (3).to_bytes(4, "big"))
    assert resets(wire.send(headers(5), data(5, message(b"five")))) == {5: Code.REFUSED_STREAM}
    assert wire.messages(wire.send(data(1, message(b"two")))) == [b"two"]


def test_more_streams_than_announced_are_refused() -> None:
    """On one connection; the others go on."""
    wire = Wire(max_streams=2)
    assert resets(wire.send(headers(1), headers(3), headers(5))) == {5: Code.REFUSED_STREAM}
    wire.send(data(1, b"", end=True))
    assert wire.messages(wire.send(headers(7), data(7, message(b"seven"))), 7) == [b"seven"]


def test_a_check_without_a_request() -> None:
    """INTERNAL; and one whose answer waits for a window is answered once."""
    wire = Wire()
    assert wire.trailers(wire.send(headers(1, path=HEALTH_CHECK, end=True)))["grpc-status"] == "13"
    wire.send(setting(frames.INITIAL_WINDOW_SIZE, 0))
    assert wire.trailers(wire.send(headers(3, path=HEALTH_CHECK), data(3, message(b""), end=True)), 3) == {}
    assert wire.trailers(wire.send(window_update(3, 100)), 3) == {"grpc-status": "0"}
    assert wire.server.open == 0


def test_a_watch_ends_with_its_client() -> None:
    """However that goes."""
    for end in (CANCEL, None):
        wire = Wire()
        wire.send(headers(path=HEALTH_WATCH), data(1, message(b""), end=True))
        assert len(wire.server.watches) == wire.server.open == 1
        if end is None:
            wire.connection.lost()
        else:
            wire.send(end)
        assert wire.server.watches == set()
        assert wire.server.open == 0


# -- what is wrong --------------------------------------------------------------------------------------------------

OPEN = headers() + data(1, message(b"one"))
ENDED = headers() + data(1, message(b"one"), end=True)
LONG = frame(HEADERS, 0, 1, block(fields())[:5])

CONNECTION_ERRORS = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", Code.PROTOCOL_ERROR),
    "a wrong preface": (frames.PREFACE[:-1] + b"x", Code.PROTOCOL_ERROR),
    "no SETTINGS first": (frames.PREFACE + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "a frame that is too long": (GREETING + b"\x00\x40\x01\x00\x00\0\0\0\x01", Code.FRAME_SIZE_ERROR),
    "an even stream": (GREETING + headers(2), Code.PROTOCOL_ERROR),
    "stream 0": (GREETING + headers(0), Code.PROTOCOL_ERROR),
    "DATA on stream 0": (GREETING + data(0, b"x"), Code.PROTOCOL_ERROR),
    "DATA on an idle stream": (GREETING + data(1, b"x"), Code.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (GREETING + CANCEL, Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (GREETING + window_update(1, 1), Code.PROTOCOL_ERROR),
    "a stream that was passed over": (GREETING + headers(5) + headers(3), Code.PROTOCOL_ERROR),
    "DATA after both ends": (GREETING + ENDED + data(1, b"x"), Code.STREAM_CLOSED),
    "HEADERS after both ends": (GREETING + ENDED + headers(1), Code.STREAM_CLOSED),
    "padding of DATA": (GREETING + OPEN + frame(DATA, PADDED, 1, b"\x05abc"), Code.PROTOCOL_ERROR),
    "padding without a length": (GREETING + OPEN + frame(DATA, PADDED, 1), Code.PROTOCOL_ERROR),
    "padding of HEADERS": (GREETING + frame(HEADERS, PADDED | END_HEADERS, 1, b"\x09"), Code.PROTOCOL_ERROR),
    "priority that is cut": (GREETING + frame(HEADERS, HAS_PRIORITY | END_HEADERS, 1, b"ab"), Code.FRAME_SIZE_ERROR),
    "a block that is none": (GREETING + frame(HEADERS, END_HEADERS, 1, b"\x80"), Code.COMPRESSION_ERROR),
    "an interrupted block": (GREETING + LONG + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "a block continued elsewhere": (
        GREETING + LONG + frame(frames.CONTINUATION, END_HEADERS, 3),
        Code.PROTOCOL_ERROR,
    ),
    "CONTINUATION alone": (GREETING + frame(frames.CONTINUATION, END_HEADERS, 1), Code.PROTOCOL_ERROR),
    "PUSH_PROMISE": (GREETING + frame(frames.PUSH_PROMISE, END_HEADERS, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "SETTINGS on a stream": (GREETING + frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "SETTINGS that are cut": (GREETING + frame(SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "an acknowledgement that says something": (GREETING + frame(SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "ENABLE_PUSH 2": (GREETING + setting(frames.ENABLE_PUSH, 2), Code.PROTOCOL_ERROR),
    "a huge window": (GREETING + setting(frames.INITIAL_WINDOW_SIZE, 2**31), Code.FLOW_CONTROL_ERROR),
    "a huge window of a stream": (
        GREETING + OPEN + window_update(1, 2**30) + setting(frames.INITIAL_WINDOW_SIZE, 2**31 - 1),
        Code.FLOW_CONTROL_ERROR,
    ),
    "a small frame size": (GREETING + setting(frames.MAX_FRAME_SIZE, 16_383), Code.PROTOCOL_ERROR),
    "a large frame size": (GREETING + setting(frames.MAX_FRAME_SIZE, 2**24), Code.PROTOCOL_ERROR),
    "PING of another size": (GREETING + frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "PING on a stream": (GREETING + frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "GOAWAY on a stream": (GREETING + frame(frames.GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "GOAWAY that is cut": (GREETING + frame(frames.GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "RST_STREAM of another size": (GREETING + OPEN + frame(RST_STREAM, 0, 1, bytes(5)), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of another size": (GREETING + frame(WINDOW_UPDATE, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of nothing": (GREETING + window_update(0, 0), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of too much": (GREETING + window_update(0, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "PRIORITY on stream 0": (GREETING + frame(PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("spoken", "code"), CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS.keys())
def test_what_ends_the_connection(spoken: bytes, code: Code) -> None:
    """GOAWAY with the code that RFC 9113 names; the streams are over, and what comes after it is ignored."""
    wire = Wire(greet=False)
    assert goaway(wire.send(spoken)) == code
    assert wire.connection.closing
    assert wire.send(GREETING, OPEN) == []
    assert wire.server.open == 0


STREAM_ERRORS = {
    "HEADERS that do not end it": (OPEN + headers(), Code.PROTOCOL_ERROR),
    "trailers with a pseudo-header": (OPEN + headers(end=True), Code.PROTOCOL_ERROR),
    "DATA after END_STREAM": (
        headers() + data(1, message(b"gate"), end=True) + data(1, message(b"x")),
        Code.STREAM_CLOSED,
    ),
    "HEADERS after END_STREAM": (
        headers() + data(1, message(b"gate"), end=True) + frame(HEADERS, END_HEADERS, 1, b""),
        Code.STREAM_CLOSED,
    ),
    "DATA after RST_STREAM": (OPEN + CANCEL + data(1, b"x"), Code.STREAM_CLOSED),
    "HEADERS after RST_STREAM": (OPEN + CANCEL + frame(HEADERS, END_HEADERS, 1, b""), Code.STREAM_CLOSED),
    "WINDOW_UPDATE of nothing": (OPEN + window_update(1, 0), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of too much": (OPEN + window_update(1, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "PRIORITY of another size": (OPEN + frame(PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "PRIORITY on itself": (OPEN + frame(PRIORITY, 0, 1, b"\0\0\0\x01\0"), Code.PROTOCOL_ERROR),
    "HEADERS that depend on themselves": (
        frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"\0\0\0\x01\0" + block(fields())),
        Code.PROTOCOL_ERROR,
    ),
    "less than content-length": (
        headers(1, ("content-length", "9")) + data(1, bytes(8), end=True),
        Code.PROTOCOL_ERROR,
    ),
    "more than content-length": (
        headers(1, ("content-length", "7")) + data(1, message(b"one"), end=True),
        Code.PROTOCOL_ERROR,
    ),
    "a field that is none": (headers(1, ("Upper", "1")), Code.PROTOCOL_ERROR),
    "a list that is too long": (
        frame(HEADERS, 0, 1, block(fields(("x", "y" * MAX_LIST)))[:16_000])
        + b"".join(
            frame(frames.CONTINUATION, END_HEADERS if at + 16_000 > MAX_LIST else 0, 1, part)
            for at in range(16_000, MAX_LIST + 200, 16_000)
            if (part := block(fields(("x", "y" * MAX_LIST)))[at : at + 16_000])
        ),
        Code.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize(("spoken", "code"), STREAM_ERRORS.values(), ids=STREAM_ERRORS.keys())
def test_what_ends_the_stream(spoken: bytes, code: Code) -> None:
    """RST_STREAM with the code that RFC 9113 names; the connection and its other streams go on."""
    wire = Wire()
    said = wire.send(spoken)
    assert resets(said) == {1: code}
    assert goaway(said) is None
    assert wire.connection.streams == {}
    assert wire.messages(wire.send(headers(9), data(9, message(b"nine"))), 9) == [b"nine"]


FLOODS = {
    "PING": frame(PING, 0, 0, bytes(8)),
    "SETTINGS": frame(SETTINGS, 0, 0),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "empty DATA": data(1, b""),
    "padding": frame(DATA, PADDED, 1, b"\0"),
    "unknown": frame(99, 0, 0),
    "late DATA": data(3, b"x"),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_floods_end_the_connection(flood: bytes) -> None:
    """Of frames that carry nothing; as many over a longer time are nothing."""
    wire = Wire()
    wire.send(OPEN, headers(3), data(3, message(b"boom")))
    for _ in range(3):
        assert goaway(wire.send(flood * (MAX_IDLE_FRAMES // 2))) is None
        wire.connection.calm()
    assert goaway(wire.send(flood * (MAX_IDLE_FRAMES + 1))) == Code.ENHANCE_YOUR_CALM


def test_a_flood_of_streams_that_are_reset_at_once() -> None:
    """HEADERS and RST_STREAM, over and over. Those that said something are Envoy's clients leaving."""
    wire = Wire()
    for number in range(MAX_IDLE_FRAMES + 100):
        stream_id = 2 * number + 1
        said = wire.send(headers(stream_id), data(stream_id, message(b"one")), rst_stream(stream_id, Code.CANCEL))
        assert goaway(said) is None
    wire = Wire()
    spoken = b"".join(
        headers(2 * number + 1) + rst_stream(2 * number + 1, Code.CANCEL) for number in range(MAX_IDLE_FRAMES + 100)
    )
    assert goaway(wire.send(spoken)) == Code.ENHANCE_YOUR_CALM
    assert wire.server.open == 0


def test_a_block_without_end() -> None:
    """CONTINUATION after CONTINUATION."""
    wire = Wire()
    wire.send(frame(HEADERS, 0, 1))
    pieces = [frame(frames.CONTINUATION, 0, 1, bytes(16_384))] * (MAX_BLOCK // 16_384 + 1)
    assert goaway(wire.send(*pieces)) == Code.ENHANCE_YOUR_CALM


def test_what_is_remembered_of_streams_is_bounded() -> None:
    """How the last few hundred ended is known; of those before, only that they are over."""
    wire = Wire()
    for number in range(REMEMBERED + 10):
        wire.send(headers(2 * number + 1, end=True))
    assert resets(wire.send(data(1, b"x"))) == {1: Code.STREAM_CLOSED}
    assert wire.send(CANCEL, window_update(1, 1)) == []
    assert goaway(wire.send(headers(1))) == Code.PROTOCOL_ERROR


def test_frames_are_parsed_back() -> None:
    """The helper of these tests reads what it is given, and nothing less."""
    assert list(parse(data(1, b"x"))) == [Frame(DATA, 0, 1, b"x")]
    with pytest.raises(AssertionError):
        list(parse(data(1, b"x")[:-1]))
