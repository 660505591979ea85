"""The usual chunks are decoded the short way, everything else in full: both ways give the same, for any input."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from extproc.core import jsondoc
from extproc.core.dialects import assemble
from extproc.core.dialects.answer import ResponseSummary
from extproc.core.dialects.anthropic import Messages
from extproc.core.dialects.openai import Chat, Responses

Dialects = Chat | Responses | Messages


def state(answer: ResponseSummary) -> dict[str, Any]:
    """All that is known of an answer."""
    return {
        "finish_reasons": answer.finish_reasons,
        **{
            name: getattr(answer, name)
            for name in ("response_id", "response_model", "usage", "output_chars", "done", "error", "spoken", "stated")
        },
    }


def told(dialect: Dialects, events: list[bytes], *, in_full: bool) -> list[Any]:
    """What each event says, and what is known after it."""
    answer = ResponseSummary()
    found: list[Any] = []
    for event in events:
        try:
            token: object = dialect.event_in_full(answer, "message", event) if in_full else None
            token = token if in_full else dialect.event(answer, "message", event)
        except jsondoc.Malformed as problem:
            token = (problem.kind, problem.at)
        found.append((token, repr(state(answer))))
    return found


def same_both_ways(dialect: Dialects, events: list[bytes]) -> None:
    """The short way, when it is taken, says what the full one says; many lines at once say what single ones say."""
    events = [event for event in events if event.strip() not in (b"", b"[DONE]")]  # which the reader sees to
    assert told(dialect, events, in_full=False) == told(dialect, events, in_full=True)
    batch, single = ResponseSummary(), ResponseSummary()
    if isinstance(dialect, Chat) and events and not any(b"\n" in event for event in events):
        token = dialect.lines(batch, b"\n".join(events))
        if token is not None:
            tokens = [dialect.event(single, "message", event) for event in events]
            assert (token, repr(state(batch))) == (any(tokens), repr(state(single)))


words = st.sampled_from(["", "a", "stop", "null", "error", "abort", "Tide goes", "x" * 40, "\u2028", "\ud800", "é"])
odd: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([1.0, 0.5, 1e400, float("nan"), 2**63, 10**30])
    | words
    | st.just([])
    | st.just({})
    | st.just(["a", {"type": "text", "text": "b"}])
    | st.just({"text": "a"})
    | st.just([{"type": "thinking", "thinking": [{"type": "text", "text": "c"}]}])
)


def members(**usual: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with any of these, each mostly as it should be and sometimes anything; and sometimes an unknown one."""
    optional = {name: st.one_of(value, value, value, odd) for name, value in usual.items()}
    return st.fixed_dictionaries({}, optional={**optional, "unknown": odd})


functions = members(name=words, arguments=words)
calls = members(index=st.integers(0, 2), id=words, type=st.just("function"), function=functions, custom=functions)
deltas = members(
    role=st.just("assistant"),
    content=words,
    reasoning=words,
    reasoning_content=words,
    reasoning_text=words,
    refusal=words,
    tool_calls=st.lists(calls, max_size=2),
    function_call=functions,
)
choices = members(
    index=st.integers(0, 1),
    delta=deltas,
    message=deltas,
    text=words,
    finish_reason=st.none() | words,
    usage=st.just({"prompt_tokens": 1}),
    error=odd,
    logprobs=st.none(),
    stop_reason=st.none(),
)
chunks = members(
    id=words,
    object=st.sampled_from(["chat.completion.chunk", "text_completion", "error"]),
    created=st.just(1),
    model=words,
    choices=st.lists(choices, max_size=2),
    usage=st.none() | st.just({"prompt_tokens": 3}) | st.just({"prompt_tokens": None}),
    error=odd,
    x_groq=members(usage=st.just({"n": 1}), error=odd),
    timings=members(prompt_n=st.just(1), predicted_n=st.just(2)),
    type=words,
    content=words,
    stop=st.booleans(),
    done=st.booleans(),
)
parts = members(
    type=st.sampled_from(["response.output_text.delta", "response.audio.delta", "content_block_delta", "error", "x"]),
    delta=words | members(type=st.just("text_delta"), text=words, thinking=words, partial_json=words),
    index=st.integers(0, 1),
    output_index=st.integers(0, 1),
    sequence_number=st.integers(),
    response=members(id=words, usage=st.just({"n": 1}), error=odd),
    error=odd,
)


def mutated(draw: st.DrawFn, body: bytes) -> bytes:
    """The bytes as they are, or with a few of them changed, missing or doubled."""
    if not body or draw(st.integers(0, 2)):
        return body
    at, size = draw(st.integers(0, len(body) - 1)), draw(st.integers(0, 3))
    middle = draw(
        st.sampled_from([b"", b'"', b"\xff", b"{", b"}", b"0", b"\\", b" ", b"\x00", b"null", body[at : at + 9]])
    )
    return body[:at] + middle + body[at + size :]


@st.composite
def streams(draw: st.DrawFn, bodies: st.SearchStrategy[dict[str, Any]]) -> list[bytes]:
    """The data of some events, mostly well formed."""
    return [
        mutated(draw, json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
        for body in draw(st.lists(bodies, max_size=3))
    ]


@settings(max_examples=400)
@given(streams(chunks))
@example([b'{"choices":[{"index":0,"delta":{"content":"Tide goes"},"message":{"content":"Tide goes away"}}]}'])
@example([b'{"choices":[{"index":1.0,"delta":{"content":"a"}}]}'])
@example([b'{"choices":[{"logprobs":"\xff","delta":{"content":"a"}}]}'])
@example([b'{"choices":[{"delta":{"content":"a"},"delta":{"content":"b"}}]}'])
@example([b'{"choices":[{"index":0,"delta":{"content":"a"}}],"x":"\xff"}'])
@example([b'{"choices":[],"object":"error","message":"m"}'])
def test_chat(events: list[bytes]) -> None:
    """Chunks of chat completions, whatever is in them."""
    same_both_ways(Chat(), events)


@given(streams(parts))
@example([b'{"type":"response.output_text.delta","delta":"a","x":"\xff"}'])
def test_responses(events: list[bytes]) -> None:
    """Deltas of the Responses API."""
    same_both_ways(Responses(), events)


@given(streams(parts))
@example([b'{"type":"content_block_delta","delta":{"text":"a","x":"\xff"}}'])
@example([b'{"delta":{"text":"a"}}'])
@example([b'{"type":null,"delta":{"text":"a"}}'])
def test_messages(events: list[bytes]) -> None:
    """Deltas of Anthropic's Messages."""
    same_both_ways(Messages(), events)


said = st.fixed_dictionaries(
    {},
    optional={
        "content": words | st.just([{"type": "text", "text": "b"}]),
        "reasoning": words,
        "tool_calls": st.just([{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]),
    },
)
plain_choices = st.fixed_dictionaries(
    {"index": st.integers(0, 1)}, optional={"delta": said, "message": said, "text": words}
)


def characters(message: dict[str, Any]) -> int:
    """Of the texts in an assembled message."""
    content = message.get("content") or ""
    texts = [part.get("text") for part in content] if isinstance(content, list) else [content]
    texts += [message.get("reasoning"), message.get("text")]
    texts += [call["function"]["arguments"] for call in message.get("tool_calls", [])]
    return sum(len(text) for text in texts if text)


@given(st.lists(st.lists(plain_choices, max_size=2).map(lambda listed: {"choices": listed}), max_size=4))
def test_the_count_is_that_of_the_assembled_answer(bodies: list[dict[str, Any]]) -> None:
    """What is counted while it passes is what is put together afterwards, however often a server says it."""
    answer = ResponseSummary()
    events = [json.dumps(body).encode() for body in bodies]
    for event in events:
        Chat().event(answer, "message", event)
    found = assemble(
        "chat.completions", "text/event-stream", None, b"".join(b"data: %b\n\n" % event for event in events)
    )
    assert answer.output_chars == sum(map(characters, found or []))
