"""The shapes of the demo backend's answers; the client packages read them in the end-to-end tests."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from extproc.mock.answer import Answer, Context
from extproc.mock.chat import ChatAnswer
from extproc.mock.completions import CompletionAnswer
from extproc.mock.embeddings import EmbeddingAnswer
from extproc.mock.generation import BadRequestError
from extproc.mock.messages import MessagesAnswer
from extproc.mock.responses import ResponsesAnswer

HELLO = [{"role": "user", "content": "Hello there"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
FORCED_CALL: dict[str, Any] = {
    "chat": {"tools": [CHAT_TOOL], "tool_choice": "required"},
    "responses": {"tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}], "tool_choice": "required"},
    "messages": {"tools": [{"name": "weather", "input_schema": SCHEMA}], "tool_choice": {"type": "any"}},
}


def answer(kind: Any, **body: Any) -> Answer:
    """The answer of an API to a request."""
    made: Answer = kind(body, Context(json.dumps(body).encode(), "demo", 0, 1_700_000_000, "id"))
    return made


def chat(**body: Any) -> Answer:
    """A chat completion's answer."""
    return answer(ChatAnswer, **{"messages": HELLO} | body)


def events(made: Answer) -> list[Any]:
    """The JSON of each frame, and `[DONE]`."""
    found = []
    for _, frame in made.frames():
        data = frame.removesuffix(b"\n\n").rpartition(b"data: ")[2]
        found.append("[DONE]" if data == b"[DONE]" else json.loads(data))
    return found


# Chat ------------------------------------------------------------------------------------------------------


def test_a_chat_stream_adds_up_to_the_whole() -> None:
    """Role first, a token a frame, the finish reason, and no usage unless asked for."""
    frames = events(chat(stream=True, n=2))
    whole = chat(n=2).whole()
    assert frames[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert frames[-1] == "[DONE]"
    assert all("usage" not in frame for frame in frames[:-1])
    for index in range(2):
        choices = [choice for frame in frames[:-1] for choice in frame["choices"] if choice["index"] == index]
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
        assert "".join(choice["delta"]["content"] for choice in choices)
    assert whole["usage"]["completion_tokens"] == sum(
        len(choice["message"]["content"].split()) for choice in whole["choices"]
    )


def test_usage_in_a_stream() -> None:
    """Last, with no choices; in every chunk when asked for, and growing."""
    frames = events(chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    assert frames[-2]["choices"] == []
    counts = [frame["usage"]["completion_tokens"] for frame in frames[:-1]]
    assert counts == sorted(counts)
    assert counts[-1] == counts[-2] > 0


def test_length_goes_with_the_last_token() -> None:
    """As vLLM does it: no empty frame after a cut."""
    last = events(chat(stream=True, max_tokens=3))[-2]["choices"][0]
    assert last["finish_reason"] == "length"
    assert last["delta"]["content"]


def test_chat_tool_calls() -> None:
    """Id and name only in the first fragment; a named choice ends with `stop`."""
    frames = events(chat(stream=True, **FORCED_CALL["chat"]))
    calls = [
        call for frame in frames[:-1] for choice in frame["choices"] for call in choice["delta"].get("tool_calls", [])
    ]
    assert [("id" in call, "name" in call["function"]) for call in calls] == [(True, True)] + [(False, False)] * (
        len(calls) - 1
    )
    assert json.loads("".join(call["function"]["arguments"] for call in calls)).keys() == {"city"}
    named = chat(tools=[CHAT_TOOL], tool_choice={"type": "function", "function": {"name": "weather"}}).whole()
    assert named["choices"][0]["finish_reason"] == "stop"
    assert chat(**FORCED_CALL["chat"]).whole()["choices"][0]["finish_reason"] == "tool_calls"


def test_chat_reasoning_and_json() -> None:
    """Reasoning when it is asked for, a document when a format is."""
    message = chat(reasoning_effort="high", response_format={"type": "json_object"}).whole()["choices"][0]["message"]
    assert message["reasoning"]
    assert json.loads(message["content"]).keys() == {"answer"}


def test_waiting_for_tokens() -> None:
    """A stream waits for as many tokens as its longest choice has."""
    made = chat(stream=True, n=3)
    assert sum(wait for wait, _ in made.frames()) == made.steps


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"n": 0},
        {"n": True},
        {"max_tokens": "7"},
        {"stop": [1]},
        {"stream_options": {"include_usage": True}},
        {"tools": [{}], "tool_choice": "required"},
        {"tool_choice": "required"},
        {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
    ],
)
def test_chat_requests_that_are_wrong(body: Any) -> None:
    """Refused, with a text."""
    with pytest.raises(BadRequestError, match=r"\w"):
        chat(**body)


# The others ------------------------------------------------------------------------------------------------


def test_completions() -> None:
    """Choice k of prompt i has the index i * n + k; echo puts the prompt first."""
    whole = answer(CompletionAnswer, prompt=["One", "Two"], n=2, echo=True).whole()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert [choice["text"][:3] for choice in whole["choices"]] == ["One", "One", "Two", "Two"]
    made = answer(CompletionAnswer, prompt=[1, 2, 3], max_tokens=4, stream=True, stream_options={"include_usage": True})
    frames = events(made)
    assert [frame["choices"][0]["finish_reason"] for frame in frames[:-2]] == [None, None, None, "length"]
    assert frames[-2]["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": None,
    }


@pytest.mark.parametrize("prompt", [None, "", [], 3, [None], {"a": 1}])
def test_prompts_that_are_none(prompt: Any) -> None:
    """Refused, for completions and for embeddings."""
    for kind, name in ((CompletionAnswer, "prompt"), (EmbeddingAnswer, "input")):
        with pytest.raises(BadRequestError, match=name):
            answer(kind, **{name: prompt})


def test_embeddings() -> None:
    """Unit vectors, the same as floats and as base64; the same text has the same one."""
    floats = answer(EmbeddingAnswer, input=["a", "b", "a"], dimensions=8).whole()["data"]
    coded = answer(EmbeddingAnswer, input=["a", "b", "a"], dimensions=8, encoding_format="base64").whole()["data"]
    assert [each["index"] for each in floats] == [0, 1, 2]
    assert floats[0]["embedding"] == floats[2]["embedding"] != floats[1]["embedding"]
    assert sum(value * value for value in floats[0]["embedding"]) == pytest.approx(1)
    assert struct.unpack("<8f", base64.b64decode(coded[0]["embedding"])) == pytest.approx(floats[0]["embedding"])
    with pytest.raises(BadRequestError, match="encoding_format"):
        answer(EmbeddingAnswer, input="a", encoding_format="bytes")


def test_responses() -> None:
    """Numbered events around the text; the last one holds everything; no [DONE]."""
    frames = events(answer(ResponsesAnswer, input="Hello", stream=True))
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    assert [frame["type"] for frame in frames[:2]] == ["response.created", "response.in_progress"]
    assert frames[-1]["type"] == "response.completed"
    text = "".join(frame["delta"] for frame in frames if frame["type"] == "response.output_text.delta")
    assert frames[-1]["response"]["output"][0]["content"][0]["text"] == text


def test_responses_cut_off_and_with_calls() -> None:
    """`incomplete` says why; a call has no text."""
    cut = answer(ResponsesAnswer, input="Hello", max_output_tokens=2).whole()
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    frames = events(answer(ResponsesAnswer, input="Hello", stream=True, **FORCED_CALL["responses"]))
    assert frames[-1]["response"]["output"][0]["type"] == "function_call"
    assert not any(frame["type"] == "response.output_text.delta" for frame in frames)
    for body in ({"input": ""}, {"input": "a", "tools": [{"type": "function"}]}):
        with pytest.raises(BadRequestError):
            answer(ResponsesAnswer, **body)


def test_messages() -> None:
    """Blocks by index, a stop reason in the delta, usage in start and delta."""
    made = answer(
        MessagesAnswer,
        messages=HELLO,
        max_tokens=100,
        stream=True,
        thinking={"type": "enabled"},
        **FORCED_CALL["messages"],
    )
    frames = events(made)
    starts = [frame["content_block"]["type"] for frame in frames if frame["type"] == "content_block_start"]
    assert starts == ["thinking", "tool_use"]
    assert frames[0]["message"]["usage"]["output_tokens"] == 0
    assert frames[-2]["delta"]["stop_reason"] == "tool_use"
    assert frames[-2]["usage"]["output_tokens"] == made.completion_tokens
    assert frames[-1] == {"type": "message_stop"}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "end_turn"),
        ({"max_tokens": 2}, "max_tokens"),
        ({"max_tokens": 2, **FORCED_CALL["messages"]}, "max_tokens"),
        ({"stop_sequences": ["e"]}, "stop_sequence"),
    ],
)
def test_how_messages_stop(more: Any, reason: str) -> None:
    """Anthropic's own words."""
    assert answer(MessagesAnswer, **{"messages": HELLO, "max_tokens": 99} | more).whole()["stop_reason"] == reason


@pytest.mark.parametrize("body", [{"messages": []}, {"max_tokens": None}, {"tools": [{}]}])
def test_message_requests_that_are_wrong(body: Any) -> None:
    """Refused."""
    with pytest.raises(BadRequestError):
        answer(MessagesAnswer, **{"messages": HELLO, "max_tokens": 9} | body)
