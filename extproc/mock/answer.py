"""What the API modules give the server: an answer that can be sent whole or as frames, at a token's pace."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from extproc.mock.generation import BadRequestError, Json, Tool

MOST_CHOICES: Final = 128
"""As many answers to one request are made, however many are asked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """What an answer needs beside the request's own body."""

    raw: bytes
    """The body as it came: the key of what is said."""
    model: str
    seed: int
    created: int
    id: str
    """Unique to the request; the APIs put their prefix before it."""


class Answer(Protocol):
    """An answer in one API's shapes."""

    @property
    def stream(self) -> bool: ...

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def completion_tokens(self) -> int: ...

    @property
    def steps(self) -> int:
        """How many tokens are generated one after another: choices run side by side."""

    def whole(self) -> Json:
        """The JSON body."""

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """The event stream: how many tokens to wait for, and what to send then."""


def frame(value: Json, event: str | None = None) -> bytes:
    """One server-sent event."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {text}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def integer(body: Mapping[str, Any], *names: str, low: int = 1) -> int | None:
    """The first of these members that is there, which must be a whole number of at least `low`."""
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise BadRequestError(f"{name} must be an integer of at least {low}, got {value!r}")
        return value
    return None


def texts(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A member that is one text or a list of them, as `stop` is."""
    value = body.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise BadRequestError(f"{name} must be a string or a list of strings")


def objects(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A member that is a list of objects; an empty list when it is absent."""
    value = body.get(name)
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        return value
    raise BadRequestError(f"{name} must be a list of objects")


def wanted_tool(tools: list[Tool], choice: Json, any_word: str) -> Tool | None:
    """The tool that the model must call: the named one, or the first when any must be called, else none."""
    if choice == any_word or (isinstance(choice, dict) and choice.get("type") == any_word):
        if not tools:
            raise BadRequestError(f"tool_choice {any_word!r} needs tools")
        return tools[0]
    if not isinstance(choice, dict):
        return None
    inner = choice.get("function")
    name = inner.get("name") if isinstance(inner, dict) else choice.get("name")
    if name is None:
        return None
    for tool in tools:
        if tool.name == name:
            return tool
    raise BadRequestError(f"tool_choice names {name!r}, which is not in tools")


def json_schema(response_format: Json) -> Mapping[str, Any] | None:
    """The schema that an answer must fit, for `json_object` (any object) and `json_schema`, in either API's nesting."""
    if not isinstance(response_format, dict):
        return None
    match response_format.get("type"):
        case "json_object":
            return {"type": "object", "properties": {"answer": {"type": "string"}}}
        case "json_schema":
            inner = response_format.get("json_schema", response_format)
            schema = inner.get("schema") if isinstance(inner, dict) else None
            return schema if isinstance(schema, dict) else {"type": "object"}
    return None


def inputs(value: Json, name: str) -> list[Json]:
    """The inputs of a request that takes one text, several, one list of token ids, or several."""
    if isinstance(value, str) and value:
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(each, int) for each in value):
            return [value]
        if all(isinstance(each, (str, list)) for each in value):
            return value
    raise BadRequestError(f"{name} must be a string, a list of strings, or a list of token ids")
