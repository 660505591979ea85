"""Answers put together again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.dialects import assemble


def chat(*deltas: Any) -> dict[str, Any]:
    """The assembled message of choice 0."""
    frames = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    body = b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames) + b"data: [DONE]\n\n"
    found = assemble("chat.completions", "text/event-stream", None, body)
    assert found is not None
    return found[0]


def call(**fields: Any) -> dict[str, Any]:
    """A fragment of tool calls with one call."""
    return {"tool_calls": [fields]}


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        (
            [{"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}],
            {"role": "assistant", "content": "ab"},
        ),
        ([{"content": None}, {"content": "a"}, {"content": None}], {"content": "a"}),
        ([{"role": "assistant"}, {"role": "assistant"}], {"role": "assistant"}),
        ([{"x": {"y": "a", "n": 1}}, {"x": {"y": "b", "n": 2}}], {"x": {"y": "ab", "n": 2}}),
        ([{"ids": [1, 2]}, {"ids": [3]}], {"ids": [1, 2, 3]}),
        ([{"parts": [{"a": 1}]}, {"parts": [{"a": 2}]}], {"parts": [{"a": 1}, {"a": 2}]}),
        ([{"x": "a"}, {"x": {"y": 1}}, {"x": 7}], {"x": 7}),
    ],
)
def test_merging(deltas: list[Any], message: dict[str, Any]) -> None:
    """Strings are joined, objects merged, lists continued, and of other things the last value counts."""
    assert chat(*deltas) == message


def test_tool_calls_by_index() -> None:
    """Fragments belong together by index, in any order, and the first index may be 1."""
    found = chat(
        call(index=2, id="b", function={"name": "g", "arguments": "["}),
        call(index=1, id="a", type="function", function={"name": "f", "arguments": ""}),
        {"tool_calls": [{"index": 1, "function": {"arguments": "{"}}, {"index": 2, "function": {"arguments": "]"}}]},
        call(index=1, function={"arguments": "}"}),
    )
    assert found["tool_calls"] == [
        {"index": 1, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"index": 2, "id": "b", "function": {"name": "g", "arguments": "[]"}},
    ]


def test_repeated_ids_and_names() -> None:
    """Servers that repeat id, type and name in each fragment meant them once."""
    fragment = {"index": 0, "id": "a", "type": "function"}
    found = chat(*[call(**fragment, function={"name": "f", "arguments": text}) for text in ("{", "}")])
    assert found["tool_calls"] == [{**fragment, "function": {"name": "f", "arguments": "{}"}}]


def test_fragments_without_an_index() -> None:
    """A fragment that omits its index continues the last call, unless it has another id."""
    found = chat(
        call(index=0, id="a", function={"arguments": "{"}),
        call(function={"arguments": "}"}),
        call(id="b", function={"arguments": "[]"}),
    )
    assert [entry["function"]["arguments"] for entry in found["tool_calls"]] == ["{}", "[]"]


def test_missing_choices_are_empty() -> None:
    """The list is by choice index."""
    body = b'data: {"choices":[{"index":2,"delta":{"content":"x"}},{"index":1000000000,"delta":{"content":"y"}}]}\n\n'
    assert assemble("chat.completions", None, None, body) == [{}, {}, {"content": "x"}]


def test_responses_from_the_terminal_event_of_any_length() -> None:
    """The output of the terminal event is given as it was sent."""
    output = [{"type": "message", "content": [{"text": "x" * 1_000_000}]}]
    event = {"type": "response.completed", "response": {"output": output}}
    assert assemble("responses", None, None, b"data: " + json.dumps(event).encode() + b"\n\n") == output


def test_responses_items_that_are_done() -> None:
    """Of a stream cut off, an item that was done is given as sent, and one that was not as far as it came."""
    events = [
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "content": []}},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "a"},
        {"type": "response.output_item.done", "output_index": 0, "item": {"type": "message", "content": ["done"]}},
        {"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call", "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{"},
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    assert assemble("responses", None, None, body) == [
        {"type": "message", "content": ["done"]},
        {"type": "function_call", "arguments": "{"},
    ]


def test_responses_items_without_an_index() -> None:
    """llama.cpp gives none: an item is known by its id, whatever comes between its events."""
    thought, text = ({"type": "reasoning", "id": "rs"}, {"type": "message", "id": "msg"})
    events = [
        {"type": "response.output_item.added", "item": {**thought, "content": []}},
        {"type": "response.reasoning_text.delta", "item_id": "rs", "delta": "h"},
        {"type": "response.reasoning_text.delta", "delta": "m"},
        {"type": "response.output_item.added", "item": {**text, "content": []}},
        {"type": "response.output_text.delta", "item_id": "msg", "delta": "the"},
        {
            "type": "response.output_item.done",
            "item": {**thought, "content": [{"type": "reasoning_text", "text": "hm"}]},
        },
        {"type": "response.output_text.delta", "item_id": "msg", "delta": " wind"},
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    whole = [
        {**thought, "content": [{"type": "reasoning_text", "text": "hm"}]},
        {**text, "content": [{"type": "output_text", "text": "the wind"}]},
    ]
    assert assemble("responses", None, None, body) == whole
    last = {"type": "response.completed", "response": {"output": whole}}
    assert assemble("responses", None, None, body + b"data: " + json.dumps(last).encode() + b"\n\n") == whole


@pytest.mark.parametrize(
    ("api", "body"),
    [
        (None, b"{}"),
        ("unknown", b"{}"),
        ("chat.completions", b""),
        ("chat.completions", b"null"),
        ("chat.completions", b"{nope"),
        ("chat.completions", b'{"error":{}}'),
        ("responses", b'{"error":{}}'),
        ("messages", b'{"type":"error"}'),
        ("embeddings", b"data: {}\n\n"),
    ],
)
def test_no_answer(api: str | None, body: bytes) -> None:
    """A body without an answer gives none."""
    assert assemble(api, "application/json", None, body) is None


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"choices":[{"message":{"content":"a\xff"}}]}',
        b'\xef\xbb\xbfdata: {"choices":[{"index":0,"delta":{"content":"a\xff"}}]}\n\n',
    ],
)
def test_bytes_that_are_no_text(body: bytes) -> None:
    """Bytes that are not UTF-8 are replaced, and a BOM is skipped."""
    assert assemble("chat.completions", None, None, body) == [{"content": "a\ufffd"}]


def test_long_streams_are_linear() -> None:
    """Joining a hundred thousand tokens takes no quadratic time."""
    found = chat(*[{"content": "word "}] * 100_000)
    assert len(found["content"]) == 500_000


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"data: ", b'data: {"choices":[{"delta":']),
    st.sampled_from(["chat.completions", "completions", "embeddings", "responses", "messages"]),
    st.sampled_from([None, "gzip", "br", "zstd", "exotic"]),
)
def test_any_bytes(body: bytes, head: bytes, api: str, encoding: str | None) -> None:
    """Nothing raises, whatever was stored."""
    assemble(api, None, encoding, head + body)


def test_deep_nesting() -> None:
    """Deltas nested deeper than any message are not merged to the death."""
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    body = b'data: {"choices":[{"index":0,"delta":' + deep + b"}]}\n\n"
    assert assemble("chat.completions", None, None, body * 2) is not None
