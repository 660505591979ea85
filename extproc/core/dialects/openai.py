"""The responses of the OpenAI APIs: chat completions, completions, embeddings and responses.

Chunks are decoded into small structs first, which costs a third of a full decode; a chunk that does not have the
usual types is decoded fully and read for what it has. Both give the same answer.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.core import jsondoc
from extproc.core.dialects.answer import Answer, mapping, objects

DONE = b"[DONE]"


class _Function(msgspec.Struct, gc=False):
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_chunk = msgspec.json.Decoder(_Chunk)
_spoken = frozenset({"message", "delta", "text"})


class Chat:
    """Chat completions and completions: `choices` with deltas, messages or texts, and `[DONE]` at the end."""

    content = frozenset({"choices"})

    def lines(self, answer: Answer, lines: bytes) -> bool | None:
        done = lines.endswith(DONE) and (len(lines) == len(DONE) or lines.endswith(b"\n" + DONE))
        try:
            chunks = _chunk.decode_lines(lines[: -len(DONE)] if done else lines)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        token = False
        for chunk in chunks:
            token |= self._add(answer, chunk)
        answer.done |= done
        return token

    def event(self, answer: Answer, name: str, data: bytes) -> bool:
        if data == DONE:
            answer.done = True
            return False
        if name != "error":
            try:
                return self._add(answer, _chunk.decode(data))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
        body = jsondoc.decode(data)
        if not isinstance(body, dict):
            raise jsondoc.Malformed("not an object", 0)
        return self._read(answer, body, failed=name == "error")

    def overlong(self, answer: Answer, name: str, head: bytes, tail: bytes) -> None:
        """A chunk that matters is never long."""

    def document(self, answer: Answer, body: Mapping[str, Any]) -> None:
        self._read(answer, body, failed=False)
        choices = body.get("choices")
        if choices is not None and not (
            isinstance(choices, list) and all(_spoken & choice.keys() for choice in objects(choices))
        ):
            # Too long to be held: what it says was not counted.
            answer.output_chars = None

    def _add(self, answer: Answer, chunk: _Chunk) -> bool:
        token = False
        for choice in chunk.choices:
            answer.choice(choice.index, choice.finish_reason)
            if choice.text:
                token |= answer.count(choice.text)
            delta = choice.delta
            if delta is None:
                continue
            if delta.content:
                token |= answer.count(delta.content)
            if delta.reasoning or delta.reasoning_content or delta.refusal:
                token |= answer.count(delta.reasoning or delta.reasoning_content, delta.refusal)
            if delta.tool_calls:
                token = True
                answer.count(*[call.function.arguments for call in delta.tool_calls if call.function])
            if delta.function_call is not None:
                token = True
                answer.count(delta.function_call.arguments)
        if answer.response_id is None or answer.response_model is None:
            answer.identify(chunk.id, chunk.model)
        if chunk.usage is not None:
            answer.use(chunk.usage)
        if chunk.error is not None:
            answer.fail(chunk.error)
        return token

    def _read(self, answer: Answer, body: Mapping[str, Any], *, failed: bool) -> bool:
        """The same from a fully decoded chunk or body, believing no type."""
        token = False
        for choice in objects(body.get("choices")):
            answer.choice(choice.get("index", 0), choice.get("finish_reason"))
            token |= answer.count(choice.get("text"))
            for part in (mapping(choice.get("delta")), mapping(choice.get("message"))):
                token |= _count_message(answer, part)
        answer.identify(body.get("id"), body.get("model"))
        answer.use(body.get("usage"))
        if failed or body.get("error") is not None or body.get("object") == "error":
            answer.fail(body)
        return token


def _count_message(answer: Answer, message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    token = answer.count(content, *[part.get("text") for part in objects(content)])
    # Some servers send the reasoning under both names.
    token |= answer.count(message.get("reasoning") or message.get("reasoning_content"), message.get("refusal"))
    calls = objects(message.get("tool_calls"))
    answer.count(*[mapping(call.get("function")).get("arguments") for call in calls])
    function = message.get("function_call")
    answer.count(mapping(function).get("arguments"))
    return token or bool(message.get("tool_calls")) or isinstance(function, dict)


class Embeddings:
    """Embeddings: usage and model; the vectors are never looked at."""

    content = frozenset({"data"})

    def lines(self, answer: Answer, lines: bytes) -> bool | None:
        return None

    def event(self, answer: Answer, name: str, data: bytes) -> bool:
        body = mapping(jsondoc.decode(data))
        if name == "error" or body.get("error") is not None:
            answer.fail(body)
        return False

    def overlong(self, answer: Answer, name: str, head: bytes, tail: bytes) -> None:
        """Embeddings are not streamed."""

    def document(self, answer: Answer, body: Mapping[str, Any]) -> None:
        answer.output_chars = None
        answer.identify(body.get("id"), body.get("model"))
        answer.use(body.get("usage"))
        if body.get("error") is not None or body.get("object") == "error":
            answer.fail(body)


class _ResponseEvent(msgspec.Struct, gc=False):
    type: str
    delta: str | None = None
    response: msgspec.Raw | None = None


_response_event = msgspec.json.Decoder(_ResponseEvent)
_NOT_CHARACTERS = ("response.audio.delta", "response.output_audio.delta")
_TERMINAL = ("response.completed", "response.incomplete", "response.failed")
# Within a string its quotes would be escaped.
_USAGE = re.compile(rb'"usage": ?(\{(?:[^{}]++|\{[^{}]*+\})*+\})')
_CALLS = ("function_call", "custom_tool_call", "mcp_call")


class Responses:
    """The Responses API: typed events; the terminal one carries the whole response and its usage."""

    content = frozenset({"output"})

    def lines(self, answer: Answer, lines: bytes) -> bool | None:
        return None

    def event(self, answer: Answer, name: str, data: bytes) -> bool:
        if data == DONE:
            return False
        try:
            event = _response_event.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._read(answer, name, jsondoc.decode(data))
        if event.type.endswith(".delta") and event.response is None:
            return event.type not in _NOT_CHARACTERS and answer.count(event.delta)
        return self._read(answer, name, jsondoc.decode(data))

    def overlong(self, answer: Answer, name: str, head: bytes, tail: bytes) -> None:
        """The terminal event repeats the instructions, the tools and the output; the usage stands near its end."""
        if name not in _TERMINAL:
            return
        answer.done = True
        answer.choice(0, name.removeprefix("response."))
        for usage in _USAGE.findall(tail)[-1:]:
            with contextlib.suppress(jsondoc.Malformed):
                answer.use(jsondoc.decode(usage))
        if name == "response.failed":
            answer.fail({})

    def document(self, answer: Answer, body: Mapping[str, Any]) -> None:
        answer.identify(body.get("id"), body.get("model"))
        answer.use(body.get("usage"))
        status = body.get("status")
        if isinstance(status, str):
            answer.choice(0, mapping(body.get("incomplete_details")).get("reason") or status)
        if body.get("error") is not None or body.get("object") == "error" or status == "failed":
            answer.fail(body)
        output = body.get("output")
        if isinstance(output, list):
            if not answer.output_chars:
                _count_output(answer, output)
        elif output is not None:
            answer.output_chars = None

    def _read(self, answer: Answer, name: str, body: object) -> bool:
        if not isinstance(body, dict):
            raise jsondoc.Malformed("not an object", 0)
        kind = body.get("type", name)
        response = mapping(body.get("response"))
        if kind in _TERMINAL:
            answer.done = True
            self.document(answer, response)
            if kind == "response.failed":
                answer.fail(response)
            return False
        answer.identify(response.get("id"), response.get("model"))
        answer.use(response.get("usage"))
        if "error" in (kind, name) or body.get("error") is not None:
            answer.fail({**body, "type": None} if kind == "error" and "error" not in body else body)
        if isinstance(kind, str) and kind.endswith(".delta") and kind not in _NOT_CHARACTERS:
            return answer.count(body.get("delta"))
        return kind == "response.output_item.added" and mapping(body.get("item")).get("type") in _CALLS


def _count_output(answer: Answer, output: list[Any]) -> None:
    for item in objects(output):
        answer.count(item.get("arguments"), item.get("input"))
        for part in objects(item.get("content")) + objects(item.get("summary")):
            answer.count(part.get("text"), part.get("refusal"))
