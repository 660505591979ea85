"""The headers of one direction, read once: what the exchange needs by name, and the list for the record."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from extproc.core.events import HeaderList
from extproc.core.records import Headers
from extproc.core.redact import FinishedHeader, Redactor

KEPT_CONTENT_LENGTH = "x-extproc-content-length"
"""The private header in which the shipped Envoy configuration carries `content-length` past ext_proc."""


class Head(msgspec.Struct, gc=False):
    """Pseudo-headers and the headers that matter by name; the others only in `fields`."""

    fields: Headers
    """`(name, value)` in the order of the wire, credentials replaced, pseudo-headers left out."""
    method: str | None = None
    path: str | None = None
    authority: str | None = None
    scheme: str | None = None
    status: int | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    content_length: int | None = None
    request_id: str | None = None
    traceparent: str | None = None
    grpc_status: str | None = None


_BY_NAME = {
    ":method": "method",
    ":path": "path",
    ":authority": "authority",
    ":scheme": "scheme",
    ":status": "status",
    "content-type": "content_type",
    "content-encoding": "content_encoding",
    "content-length": "content_length",
    "x-request-id": "request_id",
    "traceparent": "traceparent",
    "grpc-status": "grpc_status",
}
_ID = re.compile(rb"[0-9a-f-]*")
_NUMBERS = frozenset({"status", "content_length"})


def read(headers: HeaderList, redactor: Redactor) -> Head:
    """Read a header list, or trailers. Any bytes are accepted: what is not UTF-8 is kept as marked base64."""
    fields: Headers = []
    head = Head(fields)
    harmless, add = redactor.harmless, fields.append
    for header in headers:
        attribute, value, field = harmless.get(header) or _finished(header, redactor)
        if field is not None:
            add(field)
        if attribute is not None:
            if attribute == "content_encoding" and head.content_encoding:
                value = f"{head.content_encoding}, {value}"  # as one header, in the order of the wire
            setattr(head, attribute, value)
    return head


def _finished(header: tuple[str, bytes], redactor: Redactor) -> FinishedHeader:
    """What a header sets in the head, and its field in the record. Kept where there was nothing to redact in it."""
    name, raw = header
    attribute = _BY_NAME.get(name)
    if name.startswith(":"):
        if attribute is None:
            return _NOTHING
        text: Any = raw.decode("utf-8", "backslashreplace")
        value: Any = _pseudo(attribute, text, redactor)
        finished: FinishedHeader = (*_set(attribute, value, raw), None)
    elif name == KEPT_CONTENT_LENGTH:
        return _NOTHING
    elif attribute is not None and _ID.fullmatch(raw):
        # Ids and lengths are new in each request: nothing of this form is a credential, and none is worth keeping.
        text = raw.decode()
        return (*_set(attribute, text, raw), (name, text))
    else:
        text, value = raw.decode("utf-8", "replace"), redactor.field(name, raw)
        finished = (*_set(attribute, value, raw), (name, value))
    if value == text:
        redactor.keep(header, finished)
    return finished


_NOTHING: FinishedHeader = (None, None, None)


def _set(attribute: str | None, value: Any, raw: bytes) -> tuple[str | None, str | int | None]:
    if attribute in _NUMBERS:
        return attribute, _number(raw)
    return (attribute, value) if isinstance(value, str) else (None, None)


def _pseudo(attribute: str, text: str, redactor: Redactor) -> str:
    if attribute == "path":
        return redactor.url(text)
    return redactor.authority(text) if attribute == "authority" and "@" in text else text


def _number(raw: bytes) -> int | None:
    return int(raw) if raw.isdigit() and len(raw) < 19 else None
