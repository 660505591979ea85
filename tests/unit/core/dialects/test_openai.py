"""What is particular to OpenAI's APIs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core.dialects import ResponseReading
from extproc.core.dialects.answer import Answer
from extproc.core.dialects.openai import Chat, Embeddings, Responses
from extproc.core.records import LlmError


def responses(*events: dict[str, Any]) -> Answer:
    """The answer of a stream of the Responses API."""
    answer = Answer()
    for event in events:
        Responses().event(answer, str(event.get("type")), json.dumps(event).encode())
    return answer


@pytest.mark.parametrize("error", [{"error": {"type": "T", "code": 5}}, {"object": "error", "type": "T", "code": 5}])
def test_error_frames(error: dict[str, Any]) -> None:
    """An error frame is one in both shapes; it is not the end."""
    answer = Answer()
    assert not Chat().event(answer, "message", json.dumps(error).encode())
    assert answer.error == LlmError(type="T", code=5)
    assert not answer.done


def test_reasoning_under_two_names_counts_once() -> None:
    """Servers that send the reasoning under its old and its new name sent it once."""
    answer = Answer()
    Chat().event(answer, "message", b'{"choices":[{"index":0,"delta":{"reasoning":"abc","reasoning_content":"abc"}}]}')
    assert answer.output_chars == 3


@pytest.mark.parametrize(
    ("status", "details", "reason"),
    [
        ("completed", None, "completed"),
        ("incomplete", {"reason": "max_output_tokens"}, "max_output_tokens"),
        ("incomplete", None, "incomplete"),
        ("failed", None, "failed"),
    ],
)
def test_terminal_events(status: str, details: Any, reason: str) -> None:
    """The terminal event says how the response ended, and carries the usage."""
    response = {"id": "r", "model": "m", "status": status, "incomplete_details": details, "usage": {"input_tokens": 0}}
    answer = responses({"type": f"response.{status}", "response": response})
    assert answer.done
    assert answer.finish_reasons == [reason]
    assert answer.usage == {"input_tokens": 0}
    assert (answer.error is not None) == (status == "failed")


def test_error_event_of_the_responses_api() -> None:
    """The `error` event is flat: its type is the event's, not the error's."""
    answer = responses({"type": "error", "code": "rate_limit_exceeded", "message": "m"})
    assert answer.error == LlmError(code="rate_limit_exceeded", message="m")


def test_audio_is_not_characters() -> None:
    """Deltas of audio are not counted, others are, known or not."""
    answer = responses({"type": "response.audio.delta", "delta": "QUJD"}, {"type": "response.new.delta", "delta": "ab"})
    assert answer.output_chars == 2


def test_output_without_deltas_is_counted_at_the_end() -> None:
    """A stream that has the text only in its terminal event has it counted there."""
    output = [{"type": "message", "content": [{"text": "abc"}]}, {"type": "function_call", "arguments": "{}"}]
    assert responses({"type": "response.completed", "response": {"output": output}}).output_chars == 5


def test_embeddings_count_no_characters() -> None:
    """Vectors are no text."""
    answer = Answer()
    Embeddings().document(answer, {"data": [{"embedding": [1]}], "model": "m", "usage": {"prompt_tokens": 1}})
    assert (answer.output_chars, answer.usage) == (None, {"prompt_tokens": 1})


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_a_terminal_event_too_long_to_be_held(status: str) -> None:
    """The end and the usage are known although the event repeats more than is held."""
    usage = {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 9}
    output = [{"content": [{"text": 'x "usage": {"input_tokens": 1} ' * 20_000}]}]
    event = {"type": f"response.{status}", "response": {"output": output, "usage": usage, "user": None, "metadata": {}}}
    reading = ResponseReading("responses", "text/event-stream", None, 200)
    reading.feed(f"event: response.{status}\ndata: {json.dumps(event)}\n\n".encode(), 1)
    found = reading.finish(complete=True)
    assert found is not None
    assert (found.done, found.usage, found.finish_reasons) == (True, usage, [status])
    assert (found.error is not None) == (status == "failed")
    assert found.parse_error == "event 0: too long at byte 262144"
