"""The messages that Envoy sends for nearly every request, read from their bytes without making protobuf's objects.

    headers    message { HeaderMap { HeaderValue { key, raw_value } ... }, end_of_stream? }, about
    body       message { body?, end_of_stream? }, about

`about` is what follows the message itself in a ProcessingRequest: attributes, metadata, configuration. As protobuf
merges what stands one after the other, those bytes may be parsed on their own, and `wire` does.

Whatever has another form, be it damaged, reordered or new, is `None` here, and protobuf's to read or to refuse. So
protobuf alone decides what a message is, and what is read here is what it would have read.
"""

from __future__ import annotations

import functools
from typing import Final

from extproc.core.events import HeaderList

_CONTENT: Final = 0x0A
"""The tag of the first field, in a HttpBody, a HttpHeaders, a HeaderMap and a HeaderValue."""
_RAW_VALUE: Final = 0x1A
_HEADERS_END: Final = b"\x18\x01"
_BODY_END: Final = b"\x10\x01"
_SHORT: Final = 0x80
"""A length under it takes one byte."""

KEPT_ENTRIES: Final = 1024
KEPT_ENTRY_BYTES: Final = 256
"""Headers are mostly the same from one request to the next, so each is read once. It may be a credential: so many are
kept, of those used last, and no longer ones, that each is gone before `Redactor` forgets what it has made of it."""


def body(data: bytes) -> tuple[bytes, bool, bytes] | None:
    """The body, whether it ends with it, and `about`, of a message whose first byte is the tag of one with a body."""
    try:
        end, at = _extent(data, 1)
        content, ends = b"", False
        if at < end and data[at] == _CONTENT:
            stop, at = _extent(data, at + 1)
            content, at = data[at:stop], stop
        if at != end:
            if data[at:end] != _BODY_END:
                return None
            ends = True
    except IndexError:
        return None
    return content, ends, data[end:]


def headers(data: bytes) -> tuple[HeaderList, bool, bytes] | None:
    """The header list, whether nothing follows it, and `about`, of a message whose first byte is the tag of headers."""
    found: HeaderList = []
    add = found.append
    try:
        end, at = _extent(data, 1)
        if data[at] != _CONTENT:
            return None
        stop, at = _extent(data, at + 1)
        while at < stop:
            if data[at] != _CONTENT:
                return None
            size = data[at + 1]
            if size < _SHORT:
                begin = at + 2
                at = begin + size
                add(entry(data[begin:at]))
            else:
                at, begin = _extent(data, at + 1)
                add(entry(data[begin:at]) if at - begin <= KEPT_ENTRY_BYTES else _entry(data[begin:at]))
        if at != stop:
            return None
        ends = stop != end
        if ends and data[stop:end] != _HEADERS_END:
            return None
    except (IndexError, UnicodeDecodeError):
        return None
    return found, ends, data[end:]


def _entry(data: bytes) -> tuple[str, bytes]:
    """The name and the value in a HeaderValue. Raises IndexError where it has not the usual form."""
    if data[0] != _CONTENT:
        raise IndexError
    name_end, at = _extent(data, 1)
    name = data[at:name_end].decode()
    if name_end == len(data):
        return name, b""
    if data[name_end] != _RAW_VALUE:
        raise IndexError
    end, at = _extent(data, name_end + 1)
    if end != len(data):
        raise IndexError
    return name, data[at:]


entry = functools.lru_cache(KEPT_ENTRIES)(_entry)


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """Where the field ends whose length stands here, and where it begins. Raises IndexError where it is cut."""
    size = data[at]
    at += 1
    if size >= _SHORT:
        size &= 0x7F
        for shift in (7, 14, 21):
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            if byte < _SHORT:
                break
        else:
            raise IndexError  # longer than any message
    end = at + size
    if end > len(data):
        raise IndexError
    return end, at
