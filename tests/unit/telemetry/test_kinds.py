"""Texts of records as one of a few words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.dialects import RequestReading, ResponseReading
from extproc.telemetry import kinds

JSON = "application/json"
STREAM = "text/event-stream"


def said(body: bytes, content_type: str = JSON, encoding: str | None = None) -> str:
    """What the reader of an answer says of such a body."""
    reading = ResponseReading("chat.completions", content_type, encoding, 200)
    reading.feed(body, 0)
    found = reading.finish(complete=True)
    assert found is not None
    return str(found.parse_error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (said(b'{"a": nope}'), "malformed JSON"),
        (said(b"data: {nope}\n\n", STREAM), "malformed JSON"),
        (said(b"data: {}\n\n" * 3 + b"data: {nope}\n\n", STREAM), "malformed JSON"),
        (said(b"data: []\n\n", STREAM), "not an object"),
        (said(b"data: " + b"x" * 400_000 + b"\n\n", STREAM), "too long"),
        (said(b"\0xyz" * 9, JSON, "gzip"), "damaged coding"),
        (said(b"\x1f", JSON, "gzip"), "cut off"),
        (said(b"x", JSON, "my-own-coding"), "unknown coding"),
        ("br: more than 1048576 bytes decoded at byte 17", "too much decoded"),
        ("event 3: not UTF-8 at byte 9", "not UTF-8"),
        ("event 71234: cut off at byte 9", "cut off"),
        ("the reader failed: KeyError", "reader failed"),
        ("gzip: cut off at byte 3; event 9: malformed at byte 1", "cut off"),
        ("too deep at byte 3", "too deep"),
        ("number too long at byte 3", "number too long"),
        ("something new 17", "other"),
    ],
)
def test_a_parse_error_is_of_a_kind(text: str, kind: str) -> None:
    """By its words; neither the event's number nor the place in it makes another kind."""
    assert kinds.of_parse_error(text) == kind


def test_what_the_readers_say_today_is_known() -> None:
    """None of it is `other`, also of a request."""
    reading = RequestReading("chat.completions", JSON, None)
    reading.feed(b"[1 2]")
    found = reading.finish(complete=True)
    assert found is not None
    assert kinds.of_parse_error(str(found.parse_error)) != kinds.OTHER


@given(st.text() | st.none() | st.integers())
def test_the_kinds_are_a_closed_set(text: object) -> None:
    """Whatever the text."""
    assert kinds.of_parse_error(text) in kinds.PARSE_ERRORS
    assert kinds.of_late(text) in (*kinds.LATE, kinds.OTHER)


@pytest.mark.parametrize("kind", kinds.LATE)
def test_late_messages_keep_their_names(kind: str) -> None:
    """As `protocol.late` has them."""
    assert kinds.of_late(kind) == kind
