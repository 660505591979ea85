"""What is particular to OpenAI's APIs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.dialects import ResponseReading
from extproc.core.dialects.answer import ResponseSummary
from extproc.core.dialects.openai import Chat, Embeddings, Responses
from extproc.core.records import LlmError


def responses(*events: dict[str, Any]) -> ResponseSummary:
    """The answer of a stream of the Responses API."""
    answer = ResponseSummary()
    for event in events:
        Responses().event(answer, str(event.get("type")), json.dumps(event).encode())
    return answer


@pytest.mark.parametrize("error", [{"error": {"type": "T", "code": 5}}, {"object": "error", "type": "T", "code": 5}])
def test_error_frames(error: dict[str, Any]) -> None:
    """An error frame is one in both shapes; it is not the end."""
    answer = ResponseSummary()
    assert not Chat().event(answer, "message", json.dumps(error).encode())
    assert answer.error == LlmError(type="T", code=5)
    assert not answer.done


def test_reasoning_under_two_names_counts_once() -> None:
    """Servers that send the reasoning under its old and its new name sent it once."""
    answer = ResponseSummary()
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
    answer = ResponseSummary()
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


def whole(**members: Any) -> dict[str, Any]:
    """A whole answer; members of the one choice stand under `choice`, those of its message under `message`."""
    choice = members.pop("choice", {})
    message = {"role": "assistant", "content": "abc"} | members.pop("message", {})
    choices = [{"index": 0, "message": message, "finish_reason": "stop"} | choice]
    return {"id": "r", "object": "chat.completion", "model": "m", "choices": choices, "usage": {"a": 1}} | members


def said(answer: ResponseSummary) -> dict[str, Any]:
    """All that a record tells of an answer."""
    names = ("response_id", "response_model", "usage", "output_chars", "error", "finish_reasons", "is_finished")
    return {name: getattr(answer, name) for name in names}


values = st.none() | st.integers(-2, 5000) | st.text(max_size=3) | st.booleans() | st.just({"a": None}) | st.just([1])
calls = st.lists(
    st.fixed_dictionaries({}, optional={"function": st.just({"arguments": "{}", "name": "f"}), "id": values})
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "content": values,
        "reasoning": values,
        "reasoning_content": values,
        "refusal": values,
        "tool_calls": calls | values,
        "function_call": values,
        "unusual": values,
    },
)
choices = st.fixed_dictionaries(
    {},
    optional={"index": values, "finish_reason": values | st.just("error"), "message": messages, "text": values},
)
answers = st.fixed_dictionaries(
    {},
    optional={"choices": st.lists(choices, max_size=3), "error": values, "usage": values, "id": values, "type": values},
)


@given(answers)
def test_a_usual_answer_is_read_as_any_other(members: dict[str, Any]) -> None:
    """What is read of an answer without a second look is what a full reading gives."""
    body = whole(**members)
    quick, full = ResponseSummary(), ResponseSummary()
    read = Chat().usual_document(quick, json.dumps(body).encode())
    Chat().document(full, body)
    assert said(quick) == (said(full) if read else said(ResponseSummary()))


@pytest.mark.parametrize(
    ("body", "usual"),
    [
        (whole(), True),
        (whole(message={"reasoning_content": "x", "tool_calls": [{"function": {"arguments": "{}"}}]}), True),
        (whole(choice={"finish_reason": None}), True),
        (whole(error={"message": "no"}), False),
        (whole(object="error"), False),
        (whole(choice={"index": 5000}), False),
        (whole(choice={"logprobs": [[]] * 200}), False),
        (whole(message={"content": [{"text": "x"}]}), False),
    ],
)
def test_which_answers_are_usual(body: dict[str, Any], usual: bool) -> None:
    """The answers of most servers are; one with anything else in it is left for the full reading."""
    assert Chat().usual_document(ResponseSummary(), json.dumps(body).encode()) is usual


@pytest.mark.parametrize("repeated", [b'"id":"a",', b'"choices":[],'])
def test_more_members_than_are_read_are_unusual(repeated: bytes) -> None:
    """An answer of a thousand members is refused by the full reading, and so no usual one."""
    body = b"{" + repeated * 1001 + b'"choices":[]}'
    assert not Chat().usual_document(ResponseSummary(), body)
