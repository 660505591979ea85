"""Whether a body is a stream of events or one document: one answer for its times, its reading and its outcome.

The content type says so, in any case and with any parameters. Under any other type the first bytes say so, for there
are servers that send event streams as text, as JSON or without a type.
"""

from __future__ import annotations

import functools

from extproc.core.encoding import may_be_text

_STREAMS = frozenset(
    {
        "text/event-stream",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
        "application/json-lines",
        "application/stream+json",
        "application/x-json-stream",
    }
)
"""Server-sent events, and JSON by the line."""

_BOM = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:")
_MAX_SPACE = 1024
_LOOKED_AT = 16


@functools.lru_cache(maxsize=64)
def media_type(content_type: str | None) -> str:
    """The type without its parameters, in lower case; empty where there is none. Of several the first."""
    return (content_type or "").replace(",", ";").partition(";")[0].strip().lower()


def is_stream_type(content_type: str | None) -> bool:
    """Whether the type alone says that it is a stream."""
    return media_type(content_type) in _STREAMS


def is_binary_type(content_type: str | None) -> bool:
    """Whether a body of this type is no text, whatever it begins with."""
    kind = media_type(content_type)
    return kind == "application/octet-stream" or kind.startswith(("image/", "audio/", "video/"))


def is_json_type(content_type: str | None) -> bool:
    """Whether a body of this type is meant to be JSON; one without a type may be."""
    kind = media_type(content_type)
    return not kind or kind.endswith(("/json", "+json"))


def is_stream(content_type: str | None, head: bytes) -> bool | None:
    """Whether a body of this type that begins so is a stream; None while that cannot be told."""
    if is_stream_type(content_type):
        return True
    if head == _BOM[: len(head)]:
        return None
    first = head.removeprefix(_BOM).lstrip(_SPACE)
    if not first:
        return None if len(head) < _MAX_SPACE else False
    if first[:1] in (b"{", b"["):
        return False
    if first[:1] == b":":  # a comment, or the first byte of anything
        return may_be_text(first[:_LOOKED_AT]) if len(first) > 1 else None
    if first.startswith(_FIELDS):
        return True
    return None if any(field.startswith(first) for field in _FIELDS) else False
