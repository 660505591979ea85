"""`POST /v1/messages`: Anthropic's Messages API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from extproc.mock.answer import Context, frame, integer, objects, texts, wanted_tool
from extproc.mock.generation import BadRequestError, Json, Part, Tool, Wish, count_all, say

_DELTAS: Mapping[Part, tuple[str, str]] = {
    "reasoning": ("thinking_delta", "thinking"),
    "content": ("text_delta", "text"),
    "tool": ("input_json_delta", "partial_json"),
}


class MessagesAnswer:
    """The answer to one message request: thinking if it was asked for, then a text or a tool call."""

    def __init__(self, body: Mapping[str, Any], context: Context) -> None:
        messages = objects(body, "messages")
        if not messages:
            raise BadRequestError("messages: at least one message is required")
        limit = integer(body, "max_tokens")
        if limit is None:
            raise BadRequestError("max_tokens: Field required")
        self._context = context
        self.stream = bool(body.get("stream"))
        thinking = body.get("thinking")
        tools = [_tool(each) for each in objects(body, "tools")]
        wish = Wish(
            key=context.raw,
            prompt_tokens=count_all([message.get("content") for message in messages] + [body.get("system")]),
            limit=limit,
            stop=texts(body, "stop_sequences"),
            reasoning=isinstance(thinking, dict) and thinking.get("type") == "enabled",
            tool=wanted_tool(tools, body.get("tool_choice"), "any"),
        )
        self.prompt_tokens = wish.prompt_tokens
        self._said = say(wish, context.seed, 0)

    @property
    def completion_tokens(self) -> int:
        return len(self._said.tokens)

    @property
    def steps(self) -> int:
        return self.completion_tokens

    def whole(self) -> Json:
        return {
            **self._head(),
            "content": [self._block(part) for part in self._parts()],
            **self._ending(),
            "usage": {"input_tokens": self.prompt_tokens, "output_tokens": self.completion_tokens},
        }

    def frames(self) -> Iterator[tuple[int, bytes]]:
        for wait, event in self._events():
            yield wait, frame(event, event["type"])

    def _events(self) -> Iterator[tuple[int, dict[str, Json]]]:
        # The first output of the engine is what starts the message, as in a chat stream.
        usage = {"input_tokens": self.prompt_tokens, "output_tokens": 0}
        start = {**self._head(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        yield 1, {"type": "message_start", "message": start}
        yield 0, {"type": "ping"}
        wait = 0
        for index, part in enumerate(self._parts()):
            kind, member = _DELTAS[part]
            yield 0, {"type": "content_block_start", "index": index, "content_block": self._block(part, empty=True)}
            for text in [text for each, text in self._said.tokens if each == part]:
                yield wait, {"type": "content_block_delta", "index": index, "delta": {"type": kind, member: text}}
                wait = 1
            yield 0, {"type": "content_block_stop", "index": index}
        yield 0, {"type": "message_delta", "delta": self._ending(), "usage": {"output_tokens": self.completion_tokens}}
        yield 0, {"type": "message_stop"}

    def _parts(self) -> list[Part]:
        return list(dict.fromkeys(part for part, _ in self._said.tokens))

    def _head(self) -> dict[str, Json]:
        context = self._context
        return {"id": f"msg_{context.id}", "type": "message", "role": "assistant", "model": context.model}

    def _ending(self) -> dict[str, Json]:
        said = self._said
        ended = "stop_sequence" if said.stop_sequence is not None else "end_turn"
        reason = {"stop": ended, "length": "max_tokens", "tool": "tool_use"}[said.finish]
        return {"stop_reason": reason, "stop_sequence": said.stop_sequence}

    def _block(self, part: Part, *, empty: bool = False) -> Json:
        text = "" if empty else self._said.text(part)
        match part:
            case "reasoning":
                return {"type": "thinking", "thinking": text, "signature": ""}
            case "content":
                return {"type": "text", "text": text}
            case "tool":
                assert self._said.tool is not None
                head = {"type": "tool_use", "id": f"toolu_{self._context.id}", "name": self._said.tool.name}
                return {**head, "input": _arguments(text)}


def _arguments(text: str) -> Json:
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return {}  # cut off by max_tokens


def _tool(value: Mapping[str, Any]) -> Tool:
    if not isinstance(value.get("name"), str):
        raise BadRequestError("tools: each tool needs a name")
    schema = value.get("input_schema")
    return Tool(value["name"], schema if isinstance(schema, dict) else {"type": "object"})
