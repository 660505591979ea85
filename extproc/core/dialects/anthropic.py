"""The responses of Anthropic's Messages API.

Usage comes in two parts, at the start and with the last delta: they are merged, null never replaces a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.core import jsondoc
from extproc.core.dialects.answer import Answer, mapping, objects


class _Delta(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _BlockDelta(msgspec.Struct, gc=False, tag_field="type", tag="content_block_delta"):
    delta: _Delta
    error: Any = None


_block_delta = msgspec.json.Decoder(_BlockDelta)


class Messages:
    """`message_start`, content blocks, `message_delta`, `message_stop`; or one message."""

    content = frozenset({"content"})

    def lines(self, answer: Answer, lines: bytes) -> bool | None:
        return None

    def event(self, answer: Answer, name: str, data: bytes) -> bool:
        if name in ("content_block_delta", "message"):
            try:
                event = _block_delta.decode(data)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
            else:
                if event.error is None:
                    return answer.count(event.delta.text, event.delta.thinking, event.delta.partial_json)
        if data == b"[DONE]":
            return False
        body = jsondoc.decode(data)
        if not isinstance(body, dict):
            raise jsondoc.Malformed("not an object", 0)
        return self._read(answer, name, body)

    def overlong(self, answer: Answer, name: str, head: bytes, tail: bytes) -> None:
        """An event that matters is never long."""

    def document(self, answer: Answer, body: Mapping[str, Any]) -> None:
        answer.identify(body.get("id"), body.get("model"))
        _merge_usage(answer, body.get("usage"))
        if "stop_reason" in body:
            answer.choice(0, body["stop_reason"])
        if body.get("error") is not None:
            answer.fail(body)
        content = body.get("content")
        if isinstance(content, list):
            for block in objects(content):
                answer.count(block.get("text"), block.get("thinking"))
                if isinstance(block.get("input"), dict) and block["input"]:
                    answer.count(_compact(block["input"]))
        elif content is not None:
            answer.output_chars = None

    def _read(self, answer: Answer, name: str, body: dict[str, Any]) -> bool:
        kind = body.get("type", name)
        if "error" in (kind, name) or body.get("error") is not None:
            answer.fail(body if kind != "error" or "error" in body else {})
            return False
        match kind:
            case "message_start":
                message = mapping(body.get("message"))
                answer.choice(0)
                answer.identify(message.get("id"), message.get("model"))
                _merge_usage(answer, message.get("usage"))
            case "content_block_start":
                block = mapping(body.get("content_block"))
                return answer.count(block.get("text"), block.get("thinking")) or _is_call(block)
            case "content_block_delta":
                delta = mapping(body.get("delta"))
                return answer.count(delta.get("text"), delta.get("thinking"), delta.get("partial_json"))
            case "message_delta":
                answer.choice(0, mapping(body.get("delta")).get("stop_reason"))
                _merge_usage(answer, body.get("usage"))
            case "message_stop":
                answer.done = True
        return False


def _is_call(block: Mapping[str, Any]) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and kind.endswith("tool_use")


def _merge_usage(answer: Answer, usage: object) -> None:
    given = {key: value for key, value in mapping(usage).items() if value is not None}
    if isinstance(usage, dict):
        answer.use({**usage, **(answer.usage or {}), **given})


def _compact(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
