"""A regular expression in recorded bodies.

    grep = Grep("response_format.{0,40}text")
    grep.finds(exchange)

RE2: its time is linear in the body's length, whatever the expression. A body is searched as its reader sees it, that
is without its content coding, up to `MOST_BYTES`.
"""

from __future__ import annotations

from typing import Final

import re2

from extproc.core.encoding import Decoder
from extproc.core.events import Direction
from extproc.errors import ConfigError, JournalError
from extproc.history import bodies
from extproc.history.join import Exchange

MOST_BYTES: Final = 64 * 1024 * 1024
"""Of a body; an expression that matches only further on is not found."""


class Grep:
    """One expression. Raises ConfigError for one that RE2 does not understand."""

    def __init__(self, expression: str) -> None:
        options = re2.Options()
        options.log_errors = False
        try:
            self._expression = re2.compile(expression.encode(), options)
        except re2.error as error:
            raise ConfigError(f"--grep {expression!r}: {_text(error)}") from None

    def finds(self, exchange: Exchange) -> bool:
        """Whether it is in the request's body or in the answer's. A body that is gone holds nothing."""
        return any(self._in(exchange, direction) for direction in Direction)

    def _in(self, exchange: Exchange, direction: Direction) -> bool:
        try:
            body = bodies.whole(exchange, direction.value)
        except JournalError:
            return False
        return body is not None and self._expression.search(_decoded(exchange, direction, body)) is not None


def _decoded(exchange: Exchange, direction: Direction, body: bytes) -> bytes:
    passed = exchange.request if direction is Direction.REQUEST else exchange.response
    headers = (passed and passed.headers) or ()
    codings = [str(value) for name, value in headers if name == "content-encoding"]
    if not codings:
        return body[:MOST_BYTES]
    decoder, found = Decoder(", ".join(codings)), bytearray()
    for piece in decoder.pieces(body):
        found += piece
        if len(found) >= MOST_BYTES:
            break
    return bytes(found[:MOST_BYTES])


def _text(error: BaseException) -> str:
    first = error.args[0] if error.args else error
    return first.decode("utf-8", "backslashreplace") if isinstance(first, bytes) else str(first)
