"""`POST /v1/responses` as vLLM answers it: typed events with sequence numbers, and no `[DONE]` at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from extproc.mock.answer import Context, frame, integer, json_schema, objects, wanted_tool
from extproc.mock.generation import BadRequestError, Json, Tool, Wish, count_all, say


class ResponsesAnswer:
    """The answer to one request of the Responses API: one message, or one function call."""

    def __init__(self, body: Mapping[str, Any], context: Context) -> None:
        if not isinstance(body.get("input"), (str, list)) or not body["input"]:
            raise BadRequestError("input must be a string or a list of items")
        self._context = context
        self._body = body
        self.stream = bool(body.get("stream"))
        self._limit = integer(body, "max_output_tokens")
        self._tools = objects(body, "tools")
        offered = [_tool(each) for each in self._tools if each.get("type") == "function"]
        text = body.get("text")
        wish = Wish(
            key=context.raw,
            prompt_tokens=count_all([body["input"], body.get("instructions")]),
            limit=self._limit,
            schema=json_schema(text.get("format")) if isinstance(text, dict) else None,
            tool=wanted_tool(offered, body.get("tool_choice"), "required"),
        )
        self.prompt_tokens = wish.prompt_tokens
        self._said = say(wish, context.seed, 0)

    @property
    def completion_tokens(self) -> int:
        return len(self._said.tokens)

    @property
    def steps(self) -> int:
        return self.completion_tokens

    @property
    def _status(self) -> str:
        return "incomplete" if self._said.finish == "length" else "completed"

    def whole(self) -> Json:
        return self._response(self._status, [self._item(self._status)])

    def frames(self) -> Iterator[tuple[int, bytes]]:
        for sequence, (wait, event) in enumerate(self._events()):
            yield wait, frame({**event, "sequence_number": sequence}, event["type"])

    def _events(self) -> Iterator[tuple[int, dict[str, Json]]]:
        running = self._response("in_progress", [])
        yield 0, {"type": "response.created", "response": running}
        yield 0, {"type": "response.in_progress", "response": running}
        nothing_yet: dict[str, Json] = {"arguments": ""} if self._said.tool else {"content": []}
        started = {**self._item("in_progress"), **nothing_yet}
        yield 0, {"type": "response.output_item.added", "output_index": 0, "item": started}
        yield from self._call_events() if self._said.tool else self._text_events()
        yield 0, {"type": "response.output_item.done", "output_index": 0, "item": self._item(self._status)}
        yield 0, {"type": f"response.{self._status}", "response": self.whole()}

    def _text_events(self) -> Iterator[tuple[int, dict[str, Json]]]:
        place = {"item_id": f"msg_{self._context.id}", "output_index": 0, "content_index": 0}
        yield 0, {"type": "response.content_part.added", **place, "part": _text_part("")}
        for _, token in self._said.tokens:
            yield 1, {"type": "response.output_text.delta", **place, "delta": token, "logprobs": []}
        text = self._said.text("content")
        yield 0, {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
        yield 0, {"type": "response.content_part.done", **place, "part": _text_part(text)}

    def _call_events(self) -> Iterator[tuple[int, dict[str, Json]]]:
        assert self._said.tool is not None
        place = {"item_id": f"fc_{self._context.id}", "output_index": 0}
        for _, token in self._said.tokens:
            yield 1, {"type": "response.function_call_arguments.delta", **place, "delta": token}
        done = {"arguments": self._said.text("tool"), "name": self._said.tool.name}
        yield 0, {"type": "response.function_call_arguments.done", **place, **done}

    def _item(self, status: str) -> dict[str, Json]:
        said = self._said
        if said.tool is not None:
            return {
                "type": "function_call",
                "id": f"fc_{self._context.id}",
                "call_id": said.call_id,
                "name": said.tool.name,
                "arguments": said.text("tool"),
                "status": status,
            }
        return {
            "type": "message",
            "id": f"msg_{self._context.id}",
            "role": "assistant",
            "status": status,
            "content": [_text_part(said.text("content"))],
        }

    def _response(self, status: str, output: list[Json]) -> dict[str, Json]:
        ended = status != "in_progress"
        usage = {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        return {
            "id": f"resp_{self._context.id}",
            "object": "response",
            "created_at": self._context.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": self._body.get("instructions"),
            "max_output_tokens": self._limit,
            "metadata": self._body.get("metadata"),
            "model": self._context.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "temperature": self._body.get("temperature", 1.0),
            "tool_choice": self._body.get("tool_choice", "auto"),
            "tools": self._tools,
            "top_p": self._body.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": usage if ended else None,
        }


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _tool(value: Mapping[str, Any]) -> Tool:
    if not isinstance(value.get("name"), str):
        raise BadRequestError("each function in tools needs a name")
    schema = value.get("parameters")
    return Tool(value["name"], schema if isinstance(schema, dict) else {"type": "object"})
