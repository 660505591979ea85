"""One JSON object a line: what `extproc log --json` has of an exchange, with bodies what `extproc show --json` has."""

from __future__ import annotations

import base64
import codecs
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from extproc.core.record import json_line
from extproc.errors import JournalError
from extproc.export.bodies import Note, assembled
from extproc.history import bodies as recorded
from extproc.history.join import Exchange


def write(exchanges: Iterable[Exchange], sink: BinaryIO, *, bodies: bool, note: Note) -> int:
    """Write a line for each. Bodies go out in pieces."""
    count = 0
    for exchange in exchanges:
        pieces = _with_bodies(exchange, note) if bodies else (json_line(exchange),)
        sink.writelines(piece.encode("ascii") for piece in pieces)
        sink.write(b"\n")
        count += 1
    return count


def with_bodies(exchange: Exchange) -> Iterator[str]:
    """The exchange with its bodies and the assembled answer, as one line of JSON in pieces: a body may be large.

    Raises JournalError for a body that is gone, before the first piece.
    """
    mark = secrets.token_hex(16)
    stand_ins = {name: None if exchange.body(name) is None else f"{mark}.{name}" for name in ("request", "response")}
    text = json_line(complete(exchange, stand_ins))
    is_text = {name: _is_text(recorded.pieces(exchange, name)) for name in stand_ins}
    pieces = re.split(rf'"{mark}\.(request|response)"', text)
    for position, piece in enumerate(pieces):
        if position % 2:
            yield from _body(recorded.pieces(exchange, piece), is_text=is_text[piece])
        else:
            yield piece


def _with_bodies(exchange: Exchange, note: Note) -> Iterator[str]:
    pieces = with_bodies(exchange)
    try:
        first = next(pieces)
    except JournalError as error:
        note(f"{exchange.id}: {error}")
        yield json_line(exchange)
        return
    yield first
    yield from pieces


def _body(pieces: Iterator[bytes], *, is_text: bool) -> Iterator[str]:
    """A body as `record.body_field` has it."""
    if is_text:
        decoder = codecs.getincrementaldecoder("utf-8")()
        yield '{"text":"'
        for data in pieces:
            yield json_line(decoder.decode(data))[1:-1]
        yield '"}'
        return
    yield '{"base64":"'
    rest = b""
    for data in pieces:
        data = rest + data  # noqa: PLW2901 - three bytes are four characters
        whole = len(data) // 3 * 3
        yield base64.b64encode(data[:whole]).decode("ascii")
        rest = data[whole:]
    yield base64.b64encode(rest).decode("ascii") + '"}'


def _is_text(pieces: Iterator[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for data in pieces:
            decoder.decode(data)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def complete(exchange: Exchange, bodies: Mapping[str, Any]) -> dict[str, Any]:
    """The exchange with these bodies and the assembled answer."""
    whole = exchange.members()
    for direction in ("request", "response"):
        if whole[direction] is not None:
            whole[direction]["body"] = bodies[direction]
    llm, answer = whole["llm"], assembled(exchange)
    if answer is not None:
        llm["output"] = answer
    if llm is not None and llm.get("error"):
        # Its type and its code are what they have been from the beginning; what it says stands beside them.
        llm["error_message"] = llm["error"].pop("message", None)
    return whole
