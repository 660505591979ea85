"""Whether a body is a stream."""

from __future__ import annotations

import pytest

from extproc.core.media import is_binary_type, is_json_type, is_stream, is_stream_type, media_type


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("text/event-stream", "text/event-stream"),
        (" Text/Event-Stream ; Charset=UTF-8", "text/event-stream"),
        ("text/event-stream;charset=utf-8", "text/event-stream"),
        ("text/event-stream, text/event-stream", "text/event-stream"),
        ("", ""),
        (None, ""),
        (";", ""),
    ],
)
def test_a_media_type(header: str | None, kind: str) -> None:
    """The type has no case, and its parameters are none of it."""
    assert media_type(header) == kind


def test_types() -> None:
    """Lookalikes are none."""
    assert is_stream_type("Application/X-NDJSON")
    assert not any(map(is_stream_type, ("text/event-streaming", "text/plain", "application/json", None, "")))
    assert all(map(is_json_type, ("application/json", "Application/Problem+JSON; a=b", None, "")))
    assert not any(map(is_json_type, ("text/plain", "text/event-stream", "application/x-ndjson")))


@pytest.mark.parametrize("head", [b":", b":\xd0\xe4", b":\x01", b"\xd0data: a"])
def test_what_may_be_anything_is_no_stream(head: bytes) -> None:
    """A colon begins a comment, and any bytes may begin with one."""
    assert not is_stream(None, head)


@pytest.mark.parametrize("type", ["application/octet-stream", "image/png", "Audio/WAV"])
def test_types_that_are_no_text(type: str) -> None:
    """A body of these is not looked at."""
    assert is_binary_type(type)
    assert not is_binary_type("text/plain")


@pytest.mark.parametrize("head", [b"data: {", b"data:", b"event: x", b"id: 1", b"retry: 9", b": ping"])
@pytest.mark.parametrize("before", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n"])
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json"])
def test_a_stream_by_its_first_bytes(head: bytes, before: bytes, content_type: str | None) -> None:
    """A field or a comment begins a stream under any type; until it is there, nothing is said."""
    body = before + head
    whole = len(before) + max(2, head.index(b":") + 1)
    assert [is_stream(content_type, body[:at]) for at in range(whole, len(body) + 1)] == [True] * (
        len(body) + 1 - whole
    )
    assert [is_stream(content_type, body[:at]) for at in range(whole)] == [None] * whole


@pytest.mark.parametrize(
    "head", [b"{", b"[1]", b"<html>", b"internal error", b"date: x", b"evening", b"\x1f\x8b", b"dataset"]
)
def test_other_bodies(head: bytes) -> None:
    """Text that begins with the letters of a field is none; under the type of a stream all is one."""
    assert is_stream("text/plain", head) is False
    assert is_stream("text/event-stream", head) is True
    assert is_stream(None, b" " * 2000) is False
