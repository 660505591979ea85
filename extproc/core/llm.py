"""What a record says of a model's API: its `llm` part, as it was written or read now from the body in the record.

A body that stands whole in its record is read by whoever reads the record, and costs the traffic nothing. A body that
does not fit, and a stream, whose tokens have times, are read while they pass, and their `llm` is in the record; so is
that of a body which is left out of its record (`without_body`).
"""

from __future__ import annotations

import base64

from msgspec import structs

from extproc.core import dialects, encoding
from extproc.core.reading import RequestReader, ResponseReader
from extproc.core.records import (
    AnyRecord,
    Body,
    Headers,
    Open,
    Request,
    RequestDirection,
    RequestLlm,
    Response,
    ResponseDirection,
    ResponseLlm,
)


def request_llm(record: Request | Open) -> RequestLlm | None:
    """The request part of `llm`; None where there is none."""
    if record.llm is not None or record.request is None:
        return record.llm
    return _of_request_body(record.method, record.path, record.request)


def response_llm(record: Response) -> ResponseLlm | None:
    """The response part of `llm`; None where there is none."""
    if record.llm is not None or record.response is None:
        return record.llm
    return _of_response_body(record.method, record.path, record.status, record.response)


def _of_request_body(method: str | None, path: str | None, direction: RequestDirection) -> RequestLlm | None:
    body, api = _inline(direction.body), dialects.api_of(method, path or "")
    if api is None or body is None:
        return None
    reader = RequestReader(dialects.RequestReading(api, direction.content_type, _coding(direction.headers)))
    reader.feed(body)
    return reader.finish(complete=direction.ended_by is not None and not direction.truncated)


def _of_response_body(
    method: str | None, path: str | None, status: int | None, direction: ResponseDirection
) -> ResponseLlm | None:
    body, api = _inline(direction.body), dialects.api_of(method, path or "")
    if api is None or not body:
        return None
    coding = _coding(direction.headers)
    reader = ResponseReader(dialects.ResponseReading(api, direction.content_type, coding, status))
    reader.feed(body, 0)
    llm = reader.finish(0, complete=not direction.truncated)
    if llm is None or reader.first_token_at is not None or not llm.output_chars:
        return llm
    return structs.replace(llm, ttft_ms=direction.first_byte_ms)  # it came in one piece


def without_body(record: Response, *, keep_file: bool) -> Response:
    """The same record with its body left out: small enough to be kept until it can be written.

    What the body said of the model's answer stays, and so does whether the answer was whole. `keep_file`: where the
    body has a file of its own, that holds all of it.
    """
    direction = record.response
    if direction is None or (keep_file and direction.body is not None and direction.body.file is not None):
        return record
    lost: ResponseDirection = structs.replace(direction, body=None, body_lost=True)
    return structs.replace(record, llm=response_llm(record), response=lost)


def at_least(record: Response) -> Response:
    """What a terminal record cannot do without, of one that is too long without its body, too."""
    return Response(
        id=record.id,
        at=record.at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        duration_ms=record.duration_ms,
        status=record.status,
        response_flags=record.response_flags,
        closed=record.closed,
        rejected=record.rejected,
    )


def without_content(record: AnyRecord) -> AnyRecord:
    """Any record with what its body says in the place of the body."""
    match record:
        case Request() | Open() if record.request is not None and record.request.body is not None:
            request: RequestDirection = structs.replace(record.request, body=None)
            return structs.replace(record, llm=request_llm(record), request=request)
        case Response() if record.response is not None and record.response.body is not None:
            response: ResponseDirection = structs.replace(record.response, body=None)
            return structs.replace(record, llm=response_llm(record), response=response)
    return record


def _coding(headers: Headers | None) -> str | None:
    return encoding.of_headers(headers or [])


def _inline(body: Body | None) -> bytes | None:
    if body is None:
        return None
    if body.text is not None:
        return body.text.encode("utf-8", "surrogatepass")
    return None if body.base64 is None else base64.b64decode(body.base64)
