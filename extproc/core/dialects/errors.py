"""How a server says that it failed, in whatever shape: whether a JSON value says so, and what it says.

An error is one by where it stands or by its name: a member `error` that is not empty, the type or the object `error`,
a list of such, a choice with an error of its own or with a finish reason that means failure. Whether its text is JSON
comes second. What is said is brought to `type`, `code` and `message`, each None where the server did not give it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from extproc.core.records import LlmError

MAX_TEXT = 256
"""Characters kept of an identifier, a model name, a finish reason or an error's type."""

MAX_MESSAGE = 2000
"""Characters kept of an error's message."""

_MAX_DEPTH = 8
_MAX_PROBLEMS = 20

_ANSWER = frozenset(
    {"choices", "data", "output", "content", "delta", "item", "response", "embeddings", "generated_text", "object"}
)
"""A body with one of these is an answer: words that would tell a failure mean something else in it."""

_FINE_CODES = frozenset({None, 0, 200, "", "0", "200", "ok", "OK", "success", "Success"})
_FAILED_REASON = re.compile(
    r"error|abort|fail|exception|time[d_ -]{0,2}out|overload|insufficient_system", re.IGNORECASE
)
_FAILED_TEXT = re.compile(rb"\W{0,2}(?:error|exception|traceback|fatal)\b|<[!?a-z]", re.IGNORECASE)
_ERROR_NAME = re.compile(r"(?:.*[._ -])?(?:error|exception)", re.IGNORECASE)

_NESTED = ("error", "errors", "detail", "exception")
_TYPES = ("type", "error_type", "errorType", "status", "__type")
_NO_TYPES = re.compile(r"error|message|response\.[a-z_.]+", re.IGNORECASE)
_CODES = ("code", "error_code", "errorCode", "status_code", "statusCode", "http_status_code", "http_status", "status")
_MESSAGES = (
    "message",
    "Message",
    "msg",
    "error_message",
    "error_msg",
    "errorMessage",
    "err_msg",
    "status_msg",
    "error_description",
    "description",
    "reason",
    "title",
)


def text(value: object) -> str | None:
    """A string, shortened when it is unreasonably long; None for anything else."""
    return value[:MAX_TEXT] if isinstance(value, str) and value else None


def is_error_name(name: str) -> bool:
    """Whether an event of this name, or of this type, tells a failure: `error`, `response.error`, ..."""
    return _ERROR_NAME.fullmatch(name) is not None


def is_error_text(data: bytes) -> bool:
    """Whether text in place of JSON is an error by its first word, or a page of a gateway."""
    return _FAILED_TEXT.match(data[:64].lstrip()) is not None


def is_failed_reason(reason: object) -> bool:
    """Whether a finish reason means that the answer was not finished: `error`, `network_error`, `abort`, ..."""
    return isinstance(reason, str) and _FAILED_REASON.search(reason) is not None


def is_error(body: object) -> bool:
    """Whether a decoded event or document says of itself that it is an error."""
    if isinstance(body, list):
        return any(is_error(item) for item in body[:_MAX_PROBLEMS] if isinstance(item, dict))
    if not isinstance(body, dict):
        return False
    if says_something(body.get("error")):
        return True
    kind = body.get("type")
    if body.get("object") == "error" or (isinstance(kind, str) and is_error_name(kind)):
        return True
    base = body.get("base_resp")
    if isinstance(base, dict) and not _is_fine(base.get("status_code")):
        return True
    return kind is None and _ANSWER.isdisjoint(body) and _is_failure_alone(body)


def _is_failure_alone(body: dict[str, Any]) -> bool:
    """Whether a body that holds no answer is a failure: FastAPI's `detail`, a code beside a message, and the like."""
    if any(says_something(body.get(name)) for name in ("detail", "errors", "error_msg", "error_message", "error_type")):
        return True
    if body.get("success") is False or body.get("status") in ("error", "failed"):
        return True
    code = body.get("code", body.get("error_code"))
    return not _is_fine(code) and any(isinstance(body.get(name), str) for name in ("message", "msg", "error_msg"))


def _is_fine(code: object) -> bool:
    return isinstance(code, list | dict) or code in _FINE_CODES


def says_something(error: object) -> bool:
    """Servers send `"error": null`, `""` and `{}` with answers that are none."""
    if isinstance(error, dict):
        return any(value not in (None, "", 0, [], {}) for value in error.values())
    return bool(error)


def error_of(body: object) -> LlmError:
    """Type, code and message of an error in any of its shapes: nested, flat, in a list, doubly wrapped, a text."""
    levels = list(_levels(body))
    return LlmError(
        type=next(filter(None, map(_type, levels)), None),
        code=next((code for code in map(_code, levels) if code is not None), None),
        message=next(filter(None, map(_message, levels)), None),
    )


def _levels(body: object) -> Iterator[object]:
    """What is said of the error, the inmost first: it is the most particular."""
    levels = [body]
    for _ in range(_MAX_DEPTH):
        inner = _inner(levels[-1])
        if inner is None:
            break
        levels.append(inner)
    return reversed(levels)


def _inner(level: object) -> object:
    if isinstance(level, list):
        return next((item for item in level if says_something(item)), None)
    if isinstance(level, dict):
        base = level.get("base_resp")
        return next((level[name] for name in _NESTED if says_something(level.get(name))), base)
    return None


def _type(level: object) -> str | None:
    if not isinstance(level, dict):
        return None
    found = (text(level.get(name)) for name in _TYPES)
    return next((kind for kind in found if kind is not None and _NO_TYPES.fullmatch(kind) is None), None)


def _code(level: object) -> str | int | None:
    if not isinstance(level, dict):
        return None
    for name in _CODES:
        code = level.get(name)
        if type(code) is int and abs(code) < 1 << 53:
            return code
        if name != "status" and text(code) is not None:
            return text(code)
    return None


def _message(level: object) -> str | None:
    if isinstance(level, str):
        return _bounded(level)
    if isinstance(level, list):
        problems = [_message(item) for item in level[:_MAX_PROBLEMS]]
        return _bounded("; ".join(problem for problem in problems if problem))
    if not isinstance(level, Mapping):
        return None
    for name in _MESSAGES:
        value = level.get(name)
        if isinstance(value, str) and value:
            return _bounded(value)
        if name == "message" and isinstance(value, dict | list) and value:
            return _bounded(_compact(value))
    return None


def message_of(data: bytes) -> str:
    """A text that stands in place of JSON, for a person: a page without its markup."""
    found = data[: 16 * MAX_MESSAGE].decode("utf-8", "replace")
    if found.lstrip()[:1] == "<":
        found = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<!--.*?-->", " ", found)
        found = html.unescape(re.sub(r"<[^<>]*>", " ", found))
    return _bounded(" ".join(found.split())) or ""


def _bounded(message: str) -> str | None:
    return message[:MAX_MESSAGE] or None


def _compact(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode("utf-8", "replace")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
