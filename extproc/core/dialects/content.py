"""The texts of a message, in the forms in which servers send them.

A content is a string or a list of parts, a part is a string or an object with its text under the name of its kind,
which may again be a list of parts (Mistral's `thinking`). The reasoning has four names, and some servers send it
under two of them: the first that is not empty counts. Of a choice that says the same in several ways, as a `delta`,
as a `message` and as a `text`, the first that says something counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from extproc.core.dialects.answer import objects, whole_number

REASONING = ("reasoning", "reasoning_content", "reasoning_text", "thinking", "reasoning_details")
_PART = ("text", "thinking", "refusal", "content", "summary")
_MAX_DEPTH = 8


def texts(value: object, depth: int = 0) -> Iterator[str]:
    """The texts of a content, in order."""
    if isinstance(value, str):
        yield value
    elif depth > _MAX_DEPTH:
        return
    elif isinstance(value, list):
        for part in value:
            yield from texts(part, depth + 1)
    elif isinstance(value, dict):
        for name in _PART:
            if name in value:
                yield from texts(value[name], depth + 1)


def message_texts(message: Mapping[str, Any]) -> list[str]:
    """All that counts as output in a message or a delta: content, reasoning, refusal, the arguments of calls."""
    found = list(texts(message.get("content")))
    found += next(filter(any, (list(texts(message.get(name))) for name in REASONING)), [])
    found += texts(message.get("refusal"))
    for call in objects(message.get("tool_calls")):
        found.append(arguments(call))
    function = message.get("function_call")
    if isinstance(function, dict):
        found.append(arguments({"function": function}))
    return found


def places(choices: list[dict[str, Any]], *, whole: bool) -> list[int]:
    """The index of each choice: its own, or its position where that is no number.

    In a whole answer two choices with one index are two choices, by their positions; in a stream they are parts of one.
    """
    found = [whole_number(choice.get("index"), position) for position, choice in enumerate(choices)]
    return list(range(len(choices))) if whole and len(set(found)) < len(found) else found


def shows_something(message: Mapping[str, Any]) -> bool:
    """Whether there is output in it that is no text: a call, of which the name is enough, an image, a sound."""
    return (
        bool(objects(message.get("tool_calls")) or objects(message.get("images")))
        or isinstance(message.get("function_call"), dict)
        or (isinstance(message.get("audio"), dict) and bool(message["audio"].get("data")))
    )


def arguments(call: Mapping[str, Any]) -> str:
    """The arguments of a call, as they were written: of a function, of a custom tool, as text or as an object."""
    for name, member in (("function", "arguments"), ("custom", "input")):
        inner = call.get(name)
        if isinstance(inner, dict) and member in inner:
            return json_text(inner[member])
    return ""


def json_text(value: object) -> str:
    """A string as it is, an object or a list as compact JSON; nothing for null."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return msgspec.json.encode(value).decode("utf-8", "replace")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
