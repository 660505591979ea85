"""The headers of one direction, read once: what the exchange needs by name, and the list for the record."""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.core.events import HeaderList
from extproc.core.record import header_value
from extproc.core.redact import Redactor

KEPT_CONTENT_LENGTH = "x-extproc-content-length"
"""The private header in which the shipped Envoy configuration carries `content-length` past ext_proc."""


class Head(msgspec.Struct, gc=False):
    """Pseudo-headers and the headers that matter by name; the others only in `fields`."""

    fields: list[list[Any]]
    """`[name, value]` in the order of the wire, credentials replaced, pseudo-headers left out."""
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


_PSEUDO = {":method": "method", ":path": "path", ":authority": "authority", ":scheme": "scheme"}
_BY_NAME = {
    "content-type": "content_type",
    "content-encoding": "content_encoding",
    "x-request-id": "request_id",
    "traceparent": "traceparent",
    "grpc-status": "grpc_status",
}


def read(headers: HeaderList, redactor: Redactor) -> Head:
    """Read a header list, or trailers. Any bytes are accepted: what is not UTF-8 is kept as marked base64."""
    fields: list[list[Any]] = []
    head = Head(fields)
    for name, raw in headers:
        if name.startswith(":"):
            _read_pseudo(head, name, raw, redactor)
        elif redactor.is_secret(name):
            fields.append([name, redactor.mark(raw)])
        elif name != KEPT_CONTENT_LENGTH:
            _read_field(head, name, raw, redactor)
    return head


def _read_pseudo(head: Head, name: str, raw: bytes, redactor: Redactor) -> None:
    text = raw.decode("utf-8", "backslashreplace")
    if name == ":status":
        head.status = int(text) if text.isascii() and text.isdigit() else None
    elif name == ":path":
        head.path = redactor.url(text)
    elif attribute := _PSEUDO.get(name):
        setattr(head, attribute, text)


def _read_field(head: Head, name: str, raw: bytes, redactor: Redactor) -> None:
    value = header_value(raw)
    if not isinstance(value, str):
        head.fields.append([name, value])
        return
    head.fields.append([name, redactor.header(name, value)])
    if attribute := _BY_NAME.get(name):
        setattr(head, attribute, value)
    elif name == "content-length" and value.isascii() and value.isdigit() and len(value) < 19:
        head.content_length = int(value)
