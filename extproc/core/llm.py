"""What a record says of a model's API: its `llm` part, as it was written or read now from the body in the record.

A body that stands whole in its record is read by whoever reads the record, and costs the traffic nothing. A body that
does not fit, and a stream, whose tokens have times, are read while they pass, and their `llm` is in the record; so is
that of a body which is left out of its record (`without_body`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from extproc.core import dialects, encoding
from extproc.core.reading import RequestReader, ResponseReader
from extproc.core.record import LONGEST, encode

Record = Mapping[str, Any]

_LEAST = ("type", "id", "at", "started_at", "ended_at", "duration_ms", "status", "closed", "rejected", "response_flags")
"""What a terminal record cannot do without, of one that is too long without its body, too."""


def of_request(record: Record | None) -> dict[str, Any] | None:
    """The request part of `llm` from a `request` or an `open` record; None where there is none."""
    half = None if record is None else record.get("request")
    if record is None or half is None:
        return None
    written: dict[str, Any] | None = record.get("llm")
    body, api = _inline(half), dialects.api_of(record.get("method"), record.get("path") or "")
    if written is not None or api is None or body is None:
        return written
    reader = RequestReader(dialects.RequestReading(api, half["content_type"], encoding.of_headers(half["headers"])))
    reader.feed(body)
    return reader.finish(complete=half["ended_by"] is not None and not half["truncated"])


def of_response(record: Record | None) -> dict[str, Any] | None:
    """The response part of `llm` from a `response` record; None where there is none."""
    half = None if record is None else record.get("response")
    if record is None or half is None:
        return None
    written: dict[str, Any] | None = record.get("llm")
    body, api = _inline(half), dialects.api_of(record.get("method"), record.get("path") or "")
    if written is not None or api is None or not body:
        return written
    coding = encoding.of_headers(half["headers"])
    reading = dialects.ResponseReading(api, half["content_type"], coding, record["status"])
    reader = ResponseReader(reading)
    reader.feed(body, 0)
    llm = reader.finish(0, complete=not half["truncated"])
    if llm is not None:
        in_one_piece = reader.first_token_at is None
        llm["ttft_ms"] = half["first_byte_ms"] if in_one_piece and llm.get("output_chars") else None
    return llm


def without_body(response: bytes, *, keep_file: bool) -> bytes:
    """The same `response` record with its body left out: small enough to be kept until it can be written.

    What the body said of the model's answer stays, and so does whether the answer was whole. `keep_file`: where the
    body has a file of its own, that holds all of it.
    """
    fields = json.loads(response)
    half = fields["response"]
    if half is not None and not (keep_file and "file" in half["body"]):
        fields["llm"] = of_response(fields)
        fields["response"] |= {"body": None, "body_lost": True}
    reduced = encode(fields)
    return reduced if len(reduced) <= LONGEST else encode({name: fields.get(name) for name in _LEAST})


def _inline(half: Mapping[str, Any]) -> bytes | None:
    match half.get("body"):
        case {"text": str(text)}:
            return text.encode("utf-8", "surrogatepass")
        case {"base64": str(text)}:
            return base64.b64decode(text)
        case _:
            return None
