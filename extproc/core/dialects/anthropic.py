"""The responses of Anthropic's Messages API.

Usage comes in two parts, at the start and with the last delta: they are merged, null never replaces a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from extproc.core import jsondoc
from extproc.core.dialects.answer import ResponseSummary, mapping, objects
from extproc.core.dialects.content import json_text
from extproc.core.dialects.errors import is_error


class _Delta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _BlockDelta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A delta with the usual members; any other is decoded in full."""

    type: Literal["content_block_delta"]
    delta: _Delta
    index: int | None = None


_block_delta = msgspec.json.Decoder(_BlockDelta)


class Messages:
    """`message_start`, content blocks, `message_delta`, `message_stop`; or one message."""

    content = frozenset({"content"})

    def lines(self, answer: ResponseSummary, lines: bytes) -> bool | None:
        return None

    def event(self, answer: ResponseSummary, name: str, data: bytes) -> bool:
        if data == b"[DONE]":
            answer.done = True
            return False
        try:
            event = _block_delta.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self.event_in_full(answer, name, data)
        return answer.count(event.delta.text, event.delta.thinking, event.delta.partial_json)

    def event_in_full(self, answer: ResponseSummary, name: str, data: bytes) -> bool:
        """The same, believing no type."""
        body = jsondoc.decode(data)
        if not isinstance(body, dict):
            raise jsondoc.Malformed("not an object", 0)
        return self._read(answer, name, body)

    def usual_document(self, answer: ResponseSummary, body: bytes) -> bool:
        return False

    def document(self, answer: ResponseSummary, body: Mapping[str, Any]) -> None:
        if is_error(body):
            answer.fail(body)
        answer.identify(body.get("id"), body.get("model"))
        _merge_usage(answer, body.get("usage"))
        if "stop_reason" in body:
            answer.choice(0, body["stop_reason"])
        if answer.output_chars:
            return  # the whole of what came in parts, once more
        content = body.get("content")
        if isinstance(content, list):
            for block in objects(content):
                answer.count(block.get("text"), block.get("thinking"))
                if isinstance(block.get("input"), dict) and block["input"]:
                    answer.count(json_text(block["input"]))
        elif isinstance(content, str):
            answer.count(content)
        elif content is not None:
            answer.output_chars = None

    def is_whole(self, answer: ResponseSummary) -> bool:
        return answer.done or answer.is_finished

    def _read(self, answer: ResponseSummary, name: str, body: dict[str, Any]) -> bool:
        kind = body.get("type", name)
        if is_error(body):
            answer.fail(body)
            return False
        message, delta = mapping(body.get("message")), mapping(body.get("delta"))
        for usage in (message.get("usage"), delta.get("usage"), body.get("usage")):
            _merge_usage(answer, usage)
        match kind:
            case "message_start":
                answer.choice(0, message.get("stop_reason"))
                answer.identify(message.get("id"), message.get("model"))
            case "content_block_start":
                block = mapping(body.get("content_block"))
                return answer.count(block.get("text"), block.get("thinking")) or _is_call(block)
            case "content_block_delta":
                return answer.count(delta.get("text"), delta.get("thinking"), delta.get("partial_json"))
            case "message_delta":
                answer.choice(0, delta.get("stop_reason"))
            case "message_stop":
                answer.done = True
            case "message" if isinstance(body.get("content"), list):
                self.document(answer, body)
                return bool(answer.output_chars)
        return False


def _is_call(block: Mapping[str, Any]) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and kind.endswith("tool_use")


def _merge_usage(answer: ResponseSummary, usage: object) -> None:
    given = {key: value for key, value in mapping(usage).items() if value is not None}
    if isinstance(usage, dict):
        answer.use({**usage, **(answer.usage or {}), **given})
