"""What is particular to Anthropic's Messages API."""

from __future__ import annotations

import json
from typing import Any

from extproc.core.dialects.answer import ResponseSummary
from extproc.core.dialects.anthropic import Messages
from extproc.core.records import LlmError


def stream(*events: dict[str, Any]) -> ResponseSummary:
    """The answer of a stream."""
    answer = ResponseSummary()
    for event in events:
        Messages().event(answer, event["type"], json.dumps(event).encode())
    return answer


def test_usage_is_merged() -> None:
    """Each number is the last one given; null replaces nothing; fields of the start stay."""
    answer = stream(
        {
            "type": "message_start",
            "message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1}},
        },
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 5, "cache_read_input_tokens": None}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 0, "x": None}},
    )
    assert answer.usage == {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 0, "x": None}
    assert answer.finish_reasons == ["end_turn"]
    assert not answer.done


def test_a_tool_call_is_output() -> None:
    """The start of a tool call is the first token, even without input."""
    event = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "input": {}}}
    assert Messages().event(ResponseSummary(), "content_block_start", json.dumps(event).encode())


def test_errors() -> None:
    """An error is known by its type."""
    answer = ResponseSummary()
    Messages().event(answer, "message", b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}')
    assert answer.error == LlmError(type="overloaded_error", message="m")


def test_a_whole_message() -> None:
    """A message in one piece is counted by text, thinking and tool input."""
    answer = ResponseSummary()
    content = [
        {"type": "thinking", "thinking": "ab"},
        {"type": "text", "text": "cde"},
        {"type": "tool_use", "input": {"a": 1}},
    ]
    Messages().document(
        answer, {"id": "i", "model": "m", "content": content, "stop_reason": "tool_use", "usage": {"n": 0}}
    )
    assert (answer.output_chars, answer.finish_reasons, answer.usage) == (5 + 7, ["tool_use"], {"n": 0})
