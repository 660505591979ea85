"""The headers of one direction, read once: what the exchange needs by name, and the list for the record."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from extproc.core.events import HeaderList
from extproc.core.records import Headers
from extproc.core.redact import Redactor

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
    for name, raw in headers:
        attribute = _BY_NAME.get(name)
        if attribute is not None:
            _read_by_name(head, name, attribute, raw, redactor)
        elif name != KEPT_CONTENT_LENGTH and not name.startswith(":"):
            fields.append((name, redactor.field(name, raw)))
    return head


def _read_by_name(head: Head, name: str, attribute: str, raw: bytes, redactor: Redactor) -> None:
    if name[0] == ":":
        value: Any = _pseudo(attribute, raw.decode("utf-8", "backslashreplace"), redactor)
    else:
        # Ids and lengths are new in each request: nothing of this form is a credential, and none is worth a cache.
        value = raw.decode() if _ID.fullmatch(raw) else redactor.field(name, raw)
        head.fields.append((name, value))
    if attribute == "content_encoding" and head.content_encoding and isinstance(value, str):
        head.content_encoding += f", {value}"  # as one header, in the order of the wire
    elif attribute in _NUMBERS:
        setattr(head, attribute, _number(raw))
    elif isinstance(value, str):
        setattr(head, attribute, value)


def _pseudo(attribute: str, text: str, redactor: Redactor) -> str:
    if attribute == "path":
        return redactor.url(text)
    return redactor.authority(text) if attribute == "authority" and "@" in text else text


def _number(raw: bytes) -> int | None:
    return int(raw) if raw.isdigit() and len(raw) < 19 else None
