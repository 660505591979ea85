"""What was recorded of the bodies of an exchange, for all formats."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from extproc.core import dialects, encoding
from extproc.core.encoding import Decoder
from extproc.core.joined import NO_LLM
from extproc.errors import JournalError
from extproc.history import bodies as recorded
from extproc.history.join import Exchange

Note = Callable[[str], None]


def raw(exchange: Exchange, direction: str, note: Note) -> bytes | None:
    """The exact bytes; None where there are none, or where they are gone, which is told."""
    try:
        return recorded.whole(exchange, direction)
    except JournalError as error:
        note(f"{exchange.id}: {error}")
        return None


def readable(exchange: Exchange, direction: str, note: Note) -> bytes | None:
    """The same without its content coding; what cannot be decoded stays as it was sent, which is told."""
    body = raw(exchange, direction, note)
    passed = exchange.request if direction == "request" else exchange.response
    coding = encoding.of_headers((passed and passed.headers) or ())
    if not body or coding is None:
        return body
    decoder = Decoder(coding)
    plain = decoder.feed(body) + decoder.finish()
    if decoder.error is None:
        return plain
    note(f"{exchange.id}: the body of the {direction} is left as it was sent: {decoder.error}")
    return body


def text_or_base64(body: bytes) -> tuple[str, bool]:
    """A body as text, and whether that is base64: it is no UTF-8."""
    try:
        return body.decode("utf-8"), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode("ascii"), True


def assembled(exchange: Exchange) -> list[dict[str, Any]] | None:
    """The answer's messages by choice index, put together from the recorded bytes. Raises JournalError."""
    response, api = exchange.response, (exchange.llm or NO_LLM).api
    if response is None or api is None:
        return None
    coding = encoding.of_headers(response.headers or ())
    return dialects.assemble(api, response.content_type, coding, recorded.whole(exchange, "response") or b"")


def assembled_if_there(exchange: Exchange) -> list[dict[str, Any]] | None:
    """The same; None where the bytes are gone."""
    try:
        return assembled(exchange)
    except JournalError:
        return None
