"""What is gathered from a response, whatever its dialect and however it was cut.

`output_chars` counts the characters of text, reasoning, refusals and tool arguments, of all choices. Names of
tools, signatures, log probabilities, audio and vectors are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from extproc.core.dialects.errors import MAX_TEXT, error_of, is_failed_reason, text
from extproc.core.records import LlmError
from extproc.core.skim import SHORTENED

MAX_CHOICES = 4096

MAX_USAGE = 4096
"""Bytes of JSON. A larger usage is not one."""

_NO_REASON = frozenset({"", "null", "none", "undefined", "nil"})


class ResponseSummary:
    """The running state of one response."""

    def __init__(self) -> None:
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.usage: dict[str, Any] | None = None
        self.output_chars: int | None = 0
        """None when it cannot be known, because a text was too long to be held."""
        self.done = False
        self.error: LlmError | None = None
        self.is_skimmed = False
        """What is read now is what was kept of a longer event: its long strings are shortened."""
        self.spoken: set[int] = set()
        """The choices of which something came in parts."""
        self.stated: dict[int, str] = {}
        """The last text of the choices that come as whole messages."""
        self._finish_reasons: dict[int, str] = {}
        self._choices = 0

    @property
    def finish_reasons(self) -> list[str | None]:
        """One for each choice seen, by index; None where none came."""
        return [self._finish_reasons.get(index) for index in range(self._choices)]

    @property
    def is_finished(self) -> bool:
        """There are choices, and each has its finish reason."""
        return 0 < self._choices == len(self._finish_reasons)

    def identify(self, response_id: object, model: object) -> None:
        """Take the first id and the first model that the server gives."""
        if self.response_id is None:
            self.response_id = text(response_id)
        if self.response_model is None:
            self.response_model = text(model)

    def choice(self, index: object, finish_reason: object = None, position: int = 0) -> int:
        """A choice exists, and perhaps ended; the last reason given counts. Returns its index.

        A choice whose index is no number is known by its position in the list. One out of all reason is ignored: -1.
        """
        if type(index) is not int:
            index = whole_number(index, position)
        if not 0 <= index < MAX_CHOICES:
            return -1
        if index >= self._choices:
            self._choices = index + 1
        if finish_reason is not None:
            reason = finish_reason_of(finish_reason)
            if reason is not None:
                self._finish_reasons[index] = reason
                if is_failed_reason(reason):
                    self.fail({"type": reason})
        return index

    def use(self, usage: object) -> None:
        """Servers send usage once, or cumulatively, or null: the last one that says anything counts."""
        if isinstance(usage, dict) and _fits(usage):
            says_something = any(value is not None for value in usage.values())
            if self.usage is None or says_something:
                self.usage = usage

    def use_for_want(self, body: Mapping[str, Any], names: tuple[str, ...]) -> None:
        """Token counts under names of the server's own, where no usage has come."""
        counts = {name: body[name] for name in names if type(body.get(name)) is int}
        if counts and (self.usage is None or self.usage.keys() <= set(names)):
            self.usage = counts

    def fail(self, error: object) -> None:
        """An error frame or body came; the first one counts."""
        if self.error is None:
            self.error = error_of(error)

    def count(self, *texts: object) -> bool:
        """Add to the characters; whether there were any."""
        chars = 0
        for each in texts:
            if isinstance(each, str):
                chars += len(each)
                if self.is_skimmed and each.endswith(SHORTENED):
                    self.output_chars = None
        if self.output_chars is not None:
            self.output_chars += chars
        return chars > 0


class Dialect(Protocol):
    """How one API's responses are read into an `Answer`.

    `event` takes the type and data of one event, and raises `jsondoc.Malformed` before it has changed anything;
    `lines` takes the data of many untyped events, one a line, or says None when they should come one by one.
    Both say whether there was output in them. `document` takes the body of an answer that is not a stream;
    `usual_document` its bytes, and says whether it has read them: it takes only what needs no second look.
    `is_whole` says whether a stream that ends now has said all that it had to.
    """

    content: frozenset[str]

    def lines(self, answer: ResponseSummary, lines: bytes) -> bool | None: ...

    def event(self, answer: ResponseSummary, name: str, data: bytes) -> bool: ...

    def usual_document(self, answer: ResponseSummary, body: bytes) -> bool: ...

    def document(self, answer: ResponseSummary, body: Mapping[str, Any]) -> None: ...

    def is_whole(self, answer: ResponseSummary) -> bool: ...


def finish_reason_of(finish_reason: object) -> str | None:
    """A finish reason, if it is one: servers send `""` and `"null"` with every chunk but the last."""
    if not isinstance(finish_reason, str) or finish_reason.strip().lower() in _NO_REASON:
        return None
    return finish_reason[:MAX_TEXT]


def whole_number(value: object, otherwise: int) -> int:
    """An index in any form in which servers send it."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < 10 and value.isascii() and value.isdigit():
        return int(value)
    return otherwise


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
