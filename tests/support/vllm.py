"""The exchanges with a real vLLM of `tests/fixtures/vllm`, each with what is right for it.

`tests/fixtures/vllm/README.md` describes the files.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from support.golden import FIXTURES

DIRECTORY = FIXTURES / "vllm"

Fields = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response from its wire: `body` is what the chunks hold, `chunks` where each of them ends."""

    start: str
    headers: Fields
    body: bytes
    chunks: list[int]
    whole: bool
    """It came to its end, by its length or its last chunk."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the record of an exchange has to say."""

    api: str | None
    status: int
    outcome: str
    model: str | None = None
    stream: bool | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reasons: tuple[str | None, ...] = ()
    usage: dict[str, int] | None = None
    texts: tuple[str, ...] = ()
    """The text of each choice."""
    tool_calls: tuple[dict[str, str], ...] = ()
    """Of the first choice: `id`, `name`, `arguments`."""
    error: dict[str, Any] | None = None
    first_token: str | None = None
    output_chars: int | None = None
    """Where it is not that of texts and arguments."""

    @property
    def characters(self) -> int:
        """Of all output."""
        if self.output_chars is not None:
            return self.output_chars
        return sum(map(len, self.texts)) + sum(len(call["arguments"]) for call in self.tool_calls)


@dataclass(frozen=True, slots=True)
class Captured:
    """One exchange."""

    name: str
    request: Message
    response: Message
    expected: Expected

    @property
    def method(self) -> str:
        return self.request.start.split(" ")[0]

    @property
    def path(self) -> str:
        return self.request.start.split(" ")[1]

    @property
    def content_type(self) -> str:
        return dict(self.response.headers).get("content-type", b"").decode()

    @property
    def is_stream(self) -> bool:
        return self.content_type.startswith("text/event-stream")


@functools.cache
def load() -> list[Captured]:
    """All of them, by name."""
    file = json.loads((DIRECTORY / "expected.json").read_text("utf-8"))
    return [_captured(name, fields) for name, fields in sorted(file.items())]


def names_of_files() -> set[str]:
    """Of which there are bytes."""
    return {str(path.relative_to(DIRECTORY).with_suffix("")) for path in DIRECTORY.glob("*/*.response")}


def _captured(name: str, fields: dict[str, Any]) -> Captured:
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    request, response = (_message((DIRECTORY / f"{name}.{part}").read_bytes()) for part in ("request", "response"))
    return Captured(name, request, response, Expected(**lists))


def _message(raw: bytes) -> Message:
    head, _, rest = raw.partition(b"\r\n\r\n")
    start, *lines = head.decode("ascii").split("\r\n")
    fields = [(name.lower(), value.strip().encode()) for name, _, value in (line.partition(":") for line in lines)]
    if b"transfer-encoding: chunked" not in head:
        return Message(start, fields, rest, [len(rest)], whole=len(rest) == int(dict(fields)["content-length"]))
    body, ends = bytearray(), list[int]()
    while rest and not rest.startswith(b"0\r\n"):
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        ends.append(len(body))
        rest = rest[length + 2 :]
    return Message(start, fields, bytes(body), ends, whole=bool(rest))
