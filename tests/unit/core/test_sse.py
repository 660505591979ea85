"""Server-sent events by the specification, cut anywhere."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.sse import LIMIT, Parser, ServerSentEvent


def parse(*pieces: bytes) -> list[ServerSentEvent]:
    """The events of a body that came in these pieces."""
    parser = Parser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish()


def message(data: bytes, event: str = "message", *, unterminated: bool = False) -> ServerSentEvent:
    """An event as it is expected."""
    return ServerSentEvent(data, event, unterminated=unterminated)


def outside(data: bytes, *, unterminated: bool = False) -> ServerSentEvent:
    """What is no event by the specification."""
    return ServerSentEvent(data, "", outside=True, unterminated=unterminated)


GRAMMAR = {
    "LF": (b"data: a\n\ndata: b\n\n", [message(b"a"), message(b"b")]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [message(b"a"), message(b"b")]),
    "CR": (b"data: a\r\rdata: b\r\r", [message(b"a"), message(b"b")]),
    "mixed line ends": (b"data: a\r\n\ndata: b\n\rdata: c\r\r\n", [message(b"a"), message(b"b"), message(b"c")]),
    "no space after the colon": (b"data:a\n\n", [message(b"a")]),
    "only one space is dropped": (b"data:  a\n\n", [message(b" a")]),
    "several data lines": (b"data: a\ndata: b\ndata:\ndata: c\n\n", [message(b"a\nb\n\nc")]),
    "several lines with CRLF": (b"data: a\r\ndata: b\r\nevent: e\r\n\r\n", [message(b"a\nb", "e")]),
    "event type": (b"event: ping\ndata: {}\n\ndata: x\n\n", [message(b"{}", "ping"), message(b"x")]),
    "last event type counts": (b"event: a\nevent: b\ndata: x\n\n", [message(b"x", "b")]),
    "type after the data": (b"data: x\nevent: a\n\n", [message(b"x", "a")]),
    "event without data is none": (b"event: a\n\ndata: x\n\n", [message(b"x")]),
    "empty data is an event": (b"data\n\ndata:\n\n", [message(b""), message(b"")]),
    "comments": (b": ping\n\n:\n: OPENROUTER PROCESSING\ndata: x\n:\n\n", [message(b"x")]),
    "id, retry and unknown fields": (b"id: 1\nretry: 5\nfoo: bar\nfoo\ndata: x\n\n", [message(b"x")]),
    "field names have no spaces": (b" data: x\ndata : x\n\n", []),
    "BOM": (b"\xef\xbb\xbfdata: x\n\n", [message(b"x")]),
    "BOM only at the start": (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [message(b"x")]),
    "blank lines": (b"\n\n\ndata: x\n\n\n\n\ndata: y\n\n", [message(b"x"), message(b"y")]),
    "DONE is data": (b"data: [DONE]\n\ndata: x\n\n", [message(b"[DONE]"), message(b"x")]),
    "other line separators are text": (
        "data: a\u2028b\u0085c\x0b\n\n".encode(),
        [message("a\u2028b\u0085c\x0b".encode())],
    ),
    "invalid UTF-8": (b"event: \xff\ndata: \xff\xfe\0\n\n", [message(b"\xff\xfe\0", "\ufffd")]),
    "no blank line at the end": (b"data: x\n", [message(b"x", unterminated=True)]),
    "no line end at the end": (b"event: e\ndata: x\ndata: y", [message(b"x\ny", "e", unterminated=True)]),
    "CR at the end": (b"data: x\n\r", [message(b"x")]),
    "data line within an event cut off": (b"data: a\n\ndat", [message(b"a")]),
    "looks like two plain events": (b"data: a\nb\n\ndata: c\n\n", [message(b"a"), message(b"c")]),
    "plain but for an extra line": (b"data: a\n\n\ndata: b\n\n", [message(b"a"), message(b"b")]),
    "a field named error": (b"data: a\n\nerror: {}\n\n", [message(b"a"), message(b"{}", "error")]),
    "an error within an event": (b"data: a\nerror: b\n\n", [message(b"a"), message(b"b", "error")]),
    "an error event without data": (b"event: error\n\ndata: a\n\n", [message(b"", "error"), message(b"a")]),
    "a line of JSON": (b'data: a\n\n{"b":1}\n\ndata: c\n\n', [message(b"a"), outside(b'{"b":1}'), message(b"c")]),
    "JSON over lines": (b'{\n"b":\n1\n}\n\ndata: c\n\n', [outside(b'{\n"b":\n1\n}'), message(b"c")]),
    "JSON by the line": (b'{"a":1}\n[2]\n', [outside(b'{"a":1}'), outside(b"[2]")]),
    "a page": (b"<p>\nOops\n\n</p>\n: c\n", [outside(b"<p>\nOops\n</p>")]),
    "a sentence": (
        b"data: a\n\nIt went away: now\n",
        [message(b"a"), outside(b"It went away: now", unterminated=True)],
    ),
    "JSON cut off": (b'{"a":', [outside(b'{"a":', unterminated=True)]),
    "nothing": (b"", []),
}
every_case = pytest.mark.parametrize(("body", "expected"), GRAMMAR.values(), ids=GRAMMAR.keys())


@every_case
def test_grammar(body: bytes, expected: list[ServerSentEvent]) -> None:
    """A body in one piece gives its events."""
    assert parse(body) == expected


@every_case
def test_cut_everywhere(body: bytes, expected: list[ServerSentEvent]) -> None:
    """Two cuts at any two offsets change nothing."""
    for first in range(len(body) + 1):
        for second in range(first, len(body) + 1):
            assert parse(body[:first], body[first:second], body[second:]) == expected, (first, second)


@every_case
def test_byte_by_byte(body: bytes, expected: list[ServerSentEvent]) -> None:
    """A byte at a time, with empty pieces in between, changes nothing."""
    assert parse(*[piece for byte in body for piece in (bytes([byte]), b"")]) == expected


@given(
    st.lists(st.sampled_from([b"data: ", b"data:", b"a", b"\n", b"\r", b"\n\n", b":", b"event: e\n", b"\xef\xbb\xbf"])),
    st.randoms(),
)
def test_any_body_in_any_pieces(tokens: list[bytes], rng: random.Random) -> None:
    """However a body is cut, its events are the same."""
    body = b"".join(tokens)
    cuts = sorted(rng.randrange(len(body) + 1) for _ in range(4))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert parse(*pieces) == parse(body)


def test_an_event_comes_with_its_last_byte() -> None:
    """An event is given as soon as its blank line is there, with CRLF at the CR already."""
    parser = Parser()
    assert parser.feed(b"data: x\r\n") == []
    assert parser.feed(b"\r") == [message(b"x")]
    assert parser.feed(b"\n") == []


@pytest.mark.parametrize("step", [1000, 65536, 10**7])
def test_a_line_without_end_is_capped(step: int) -> None:
    """Of an event over the limit the first bytes are kept and marked; the next event is whole."""
    body = b"data: " + b"x" * (LIMIT + 50_000) + b"\n\ndata: next\n\n"
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    first, second = parse(*pieces)
    assert (first.data, first.truncated, second) == (b"x" * LIMIT, True, message(b"next"))


@pytest.mark.parametrize("step", [1000, 65536, LIMIT + 7, 10**7])
@pytest.mark.parametrize("head", [b"data: ", b"data:", b"event: e\ndata: ", b""])
def test_the_small_members_of_a_long_event(step: int, head: bytes) -> None:
    """What an event says beside its long content is kept, wherever it stands, however the bytes are cut."""
    long = random.Random(1).randbytes(LIMIT // 2).hex()
    event = {
        "id": "i",
        "choices": [{"delta": {"image": long, "n": [0] * 9000}, "finish_reason": "stop"}],
        "usage": {"n": 1},
    }
    body = head + json.dumps(event).encode() + b"\n\ndata: next\n\n"
    first, second = parse(*[body[at : at + step] for at in range(0, len(body), step)])
    skimmed = json.loads(first.skimmed)
    assert (skimmed["id"], skimmed["usage"], skimmed["choices"][0]["finish_reason"]) == ("i", {"n": 1}, "stop")
    assert skimmed["choices"][0]["delta"] == {"image": long[:512] + "\u2026", "n": []}
    assert (first.truncated, first.outside, second) == (True, head == b"", message(b"next"))


def test_many_long_json_lines() -> None:
    """Each line of JSON outside of the format is an event of its own, a long one as well."""
    line = json.dumps({"x": "y" * LIMIT}).encode()
    body = line + b"\n" + line + b'\n{"a":1}\n'
    for step in (1000, 65536, len(body)):
        found = parse(*[body[at : at + step] for at in range(0, len(body), step)])
        assert [(event.truncated, event.outside, len(event.skimmed) < 600) for event in found] == [
            (True, True, True),
            (True, True, True),
            (False, True, True),
        ]


def test_many_lines_are_capped_together() -> None:
    """The limit is for the event, whatever number of lines it has."""
    body = b"data: xxxxxxx\n" * LIMIT + b"\ndata: next\n\n"
    first, second = parse(*[body[at : at + 50_001] for at in range(0, len(body), 50_001)])
    assert first.truncated
    assert len(first.data) <= LIMIT
    assert second == message(b"next")


@pytest.mark.parametrize("field", [b": ", b"id: ", b"data", b"", b"data : "])
def test_an_endless_line_that_is_no_data_is_dropped(field: bytes) -> None:
    """A comment or an unknown field without end harms no event."""
    body = field + b"x" * (2 * LIMIT) + b"\ndata: next\n\n"
    assert parse(*[body[at : at + 10_000] for at in range(0, len(body), 10_000)]) == [message(b"next")]


def test_memory_is_bounded() -> None:
    """A hundred megabytes without a line end are not held."""
    parser = Parser()
    parser.feed(b"data: ")
    piece = b"x" * 100_000
    tracemalloc.start()
    for _ in range(1000):
        parser.feed(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * LIMIT


def test_events_at_the_limit_are_whole() -> None:
    """An event of exactly the limit is not truncated, neither in one piece nor in two."""
    body = b"data: " + b"x" * LIMIT + b"\n\n"
    assert parse(body) == parse(body[:9], body[9:]) == [message(b"x" * LIMIT)]


def test_plain_events_as_lines() -> None:
    """Whole events of one data line each are given as lines, for decoding all at once."""
    assert Parser().plain(b"data: a\n\ndata: b\n\n") == b"a\nb"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"data: a",
        b"data: a\n",
        b"data: a\n\ndata: b\n",
        b"data: a\ndata: b\n\n",
        b"data: a\n\n: c\n\n",
        b"data: a\n\nevent: e\ndata: b\n\n",
        b"event: e\ndata: a\n\n",
        b"data: a\r\n\r\n",
        b"data: a\n\n\n\n",
        b"data:a\n\n",
    ],
)
def test_other_events_are_not_plain(body: bytes) -> None:
    """Anything else is left to `feed`, and nothing of it is taken."""
    parser = Parser()
    assert parser.plain(body) is None
    assert parser.feed(body) + parser.finish() == parse(body)


def test_nothing_is_plain_within_an_event() -> None:
    """What looks like a whole event may continue another one."""
    parser = Parser()
    parser.feed(b"data: a\n")
    assert parser.plain(b"data: b\n\n") is None
    assert parser.feed(b"data: b\n\n") == [message(b"a\nb")]


@pytest.mark.parametrize(
    ("body", "inside"),
    [
        (b"data: a\n\n", False),
        (b"data: a\n", False),
        (b"data: a", False),
        (b"data: a\n\n: comm", False),
        (b"data: a\n\ndat", True),
        (b"data: a\n\nevent: b", True),
        (b"data: a\n\nevent: b\n", True),
        (b"", False),
    ],
)
def test_a_body_that_ends_within_an_event(body: bytes, inside: bool) -> None:
    """A line that is no event yet is the beginning of one. Data is given, and whoever reads it can tell."""
    for at in range(len(body) + 1):
        parser = Parser()
        parser.feed(body[:at])
        parser.feed(body[at:])
        parser.finish()
        assert parser.ended_inside is inside, at
