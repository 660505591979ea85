"""What is gathered from a response, whatever its dialect and however it was cut.

`output_chars` counts the characters of text, reasoning, refusals and tool arguments, of all choices. Names of
tools, signatures, log probabilities, audio and vectors are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

MAX_CHOICES = 4096
MAX_TEXT = 256
"""Characters kept of an identifier, a model name, a finish reason or an error's type."""

MAX_USAGE = 4096
"""Bytes of JSON. A larger usage is not one."""


class Answer:
    """The running state of one response."""

    def __init__(self) -> None:
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.usage: dict[str, Any] | None = None
        self.output_chars: int | None = 0
        self.done = False
        self.error: dict[str, Any] | None = None
        self._finish_reasons: dict[int, str] = {}
        self._choices = 0

    @property
    def finish_reasons(self) -> list[str | None]:
        """One for each choice seen, by index; None where none came."""
        return [self._finish_reasons.get(index) for index in range(self._choices)]

    def identify(self, response_id: object, model: object) -> None:
        """Take the first id and the first model that the server gives."""
        if self.response_id is None:
            self.response_id = text(response_id)
        if self.response_model is None:
            self.response_model = text(model)

    def choice(self, index: object, finish_reason: object = None) -> None:
        """A choice exists, and perhaps ended. The last reason given counts."""
        if type(index) is not int or not 0 <= index < MAX_CHOICES:
            return
        if index >= self._choices:
            self._choices = index + 1
        if isinstance(finish_reason, str):
            self._finish_reasons[index] = finish_reason[:MAX_TEXT]

    def use(self, usage: object) -> None:
        """Servers send usage once, or cumulatively, or null: the last one that is not null counts."""
        if isinstance(usage, dict) and _fits(usage):
            self.usage = usage

    def fail(self, error: object) -> None:
        """An error frame or body came; the first one counts."""
        if self.error is None:
            self.error = error_of(error)

    def count(self, *texts: object) -> bool:
        """Add to the characters; whether there were any."""
        chars = sum(len(text) for text in texts if isinstance(text, str))
        self.output_chars = (self.output_chars or 0) + chars
        return chars > 0


class Dialect(Protocol):
    """How one API's responses are read into an `Answer`.

    `event` takes the type and data of one event, and raises `jsondoc.Malformed` before it has changed anything;
    `lines` takes the data of many untyped events, one a line, or says None when they should come one by one.
    Both say whether there was output in them. `overlong` takes what was kept of an event over the parser's limit,
    its type, its beginning and its end. `document` takes the body of an answer that is not a stream.
    """

    content: frozenset[str]

    def lines(self, answer: Answer, lines: bytes) -> bool | None: ...

    def event(self, answer: Answer, name: str, data: bytes) -> bool: ...

    def overlong(self, answer: Answer, name: str, head: bytes, tail: bytes) -> None: ...

    def document(self, answer: Answer, body: Mapping[str, Any]) -> None: ...


def text(value: object) -> str | None:
    """A string, shortened when it is unreasonably long; None for anything else."""
    return value[:MAX_TEXT] if isinstance(value, str) and value else None


def error_of(body: object) -> dict[str, Any]:
    """Type and code of an error in any of its shapes: nested, flat, doubly wrapped, a string."""
    found = body
    while isinstance(found, dict) and isinstance(found.get("error"), dict):
        found = found["error"]
    if not isinstance(found, dict):
        return {"type": None, "code": None}
    code = found.get("code")
    return {
        "type": text(found.get("type")),
        "code": code if type(code) is int and abs(code) < 1 << 53 else text(code),
    }


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list; nothing when it is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def mapping(value: object) -> dict[str, Any]:
    """The value when it is an object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def _fits(usage: dict[str, Any]) -> bool:
    if len(usage) > 64:
        return False
    try:
        return len(msgspec.json.encode(usage)) <= MAX_USAGE
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
