"""What an answer said, how much it was, and what it cost: in all the forms in which servers say it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core.dialects import ResponseReading, assemble
from extproc.core.records import fields_of
from extproc.telemetry import semconv

SSE, JSON = "text/event-stream", "application/json"


def sent(*events: Any) -> bytes:
    """An event stream."""
    return b"".join(
        b"data: %b\n\n" % (event if isinstance(event, bytes) else json.dumps(event).encode()) for event in events
    )


def read(api: str, body: bytes, content_type: str = SSE) -> dict[str, Any]:
    """What is read of an answer."""
    reading = ResponseReading(api, content_type, None, 200)
    reading.feed(body, 1)
    found = reading.finish(complete=True)
    assert found is not None
    return fields_of(found)


def chunk(**members: Any) -> dict[str, Any]:
    """A chunk with one choice."""
    return {"choices": [{"index": 0, **members}]}


def call(**members: Any) -> dict[str, Any]:
    """A chunk with one fragment of a call."""
    return chunk(delta={"tool_calls": [members]})


THINK = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
TEXT = {"type": "text", "text": "Ti"}
F, G = {"name": "f", "arguments": "{}"}, {"name": "g", "arguments": "[]"}

CHAT: dict[str, tuple[list[dict[str, Any]], int, list[dict[str, Any]]]] = {
    "parts, and a string after them": (
        [
            chunk(delta={"content": ""}),
            chunk(delta={"content": [THINK]}),
            chunk(delta={"content": [THINK, TEXT]}),
            chunk(delta={"content": "de"}),
        ],
        8,
        [
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "HmHm"}]},
                    {"type": "text", "text": "Tide"},
                ]
            }
        ],
    ),
    "a string, and parts after it": (
        [chunk(delta={"content": "Ti"}), chunk(delta={"content": [{"type": "text", "text": "de"}]})],
        4,
        [{"content": [{"type": "text", "text": "Tide"}]}],
    ),
    "thinking as a string": (
        [
            chunk(delta={"content": [{"type": "thinking", "thinking": "H"}]}),
            chunk(delta={"content": [{"type": "thinking", "thinking": "m"}]}),
        ],
        2,
        [{"content": [{"type": "thinking", "thinking": "Hm"}]}],
    ),
    "a message at the end, again": (
        [
            chunk(delta={"content": "Ti"}),
            chunk(delta={"content": "de"}),
            chunk(delta={}, message={"content": "Tide"}, finish_reason="stop"),
        ],
        4,
        [{"content": "Tide"}],
    ),
    "a message beside each delta": (
        [
            chunk(delta={"content": "Ti"}, message={"content": "Ti"}),
            chunk(delta={"content": "de"}, message={"content": "Tide"}),
        ],
        4,
        [{"content": "Tide"}],
    ),
    "a message alone": (
        [chunk(message={"role": "assistant", "content": "Tide"})],
        4,
        [{"role": "assistant", "content": "Tide"}],
    ),
    "messages that grow": (
        [chunk(message={"content": "Ti"}), chunk(message={"content": "Tide"})],
        4,
        [{"content": "Tide"}],
    ),
    "messages that go on": (
        [chunk(message={"content": "Ti"}), chunk(message={"content": "de"})],
        4,
        [{"content": "Tide"}],
    ),
    "a text beside a delta": (
        [chunk(delta={"content": "Ti"}, text="Ti"), chunk(delta={"content": "de"}, text="de")],
        4,
        [{"content": "Tide"}],
    ),
    "a text alone": ([chunk(text="Ti"), chunk(text="de")], 4, [{"text": "Tide"}]),
    "reasoning under two names": (
        [chunk(delta={"reasoning": "Hm", "reasoning_content": "Hm"}), chunk(delta={"reasoning_text": "Hm"})],
        4,
        [{"reasoning": "Hm", "reasoning_content": "Hm", "reasoning_text": "Hm"}],
    ),
    "reasoning as an object": (
        [chunk(delta={"reasoning_content": {"text": "Hm"}})] * 2,
        4,
        [{"reasoning_content": {"text": "HmHm"}}],
    ),
    "details of the reasoning": (
        [
            chunk(
                delta={
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "H", "format": "anthropic-claude-v1", "index": 0}
                    ]
                }
            ),
            chunk(
                delta={
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "m", "format": "anthropic-claude-v1", "index": 0}
                    ]
                }
            ),
            chunk(
                delta={
                    "reasoning_details": [
                        {"type": "reasoning.encrypted", "data": "A=", "format": "anthropic-claude-v1", "index": 0}
                    ]
                }
            ),
        ],
        2,
        [
            {
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "Hm", "format": "anthropic-claude-v1", "index": 0},
                    {"type": "reasoning.encrypted", "data": "A=", "format": "anthropic-claude-v1", "index": 0},
                ]
            }
        ],
    ),
    "two calls under one index": (
        [call(index=0, id="a", function=F), call(index=0, id="b", function=G)],
        4,
        [{"tool_calls": [{"index": 0, "id": "a", "function": F}, {"index": 0, "id": "b", "function": G}]}],
    ),
    "two calls under one index, in fragments": (
        [
            call(index=0, id="a", function={"name": "f", "arguments": ""}),
            call(index=0, function={"arguments": "{}"}),
            call(index=0, id="b", function={"name": "g", "arguments": "["}),
            call(index=0, function={"arguments": "]"}),
        ],
        4,
        [{"tool_calls": [{"index": 0, "id": "a", "function": F}, {"index": 0, "id": "b", "function": G}]}],
    ),
    "another id in each fragment of one call": (
        [
            call(index=0, id="a", function={"name": "f", "arguments": "{"}),
            call(index=0, id="b", function={"name": None, "arguments": "}"}),
        ],
        2,
        [{"tool_calls": [{"index": 0, "id": "b", "function": F}]}],
    ),
    "calls without an index": (
        [call(id="a", function=F), call(id="b", function=G)],
        4,
        [{"tool_calls": [{"id": "a", "function": F}, {"id": "b", "function": G}]}],
    ),
    "calls without an index or an id": (
        [call(function={"name": "f", "arguments": {"a": 1}}), call(function={"name": "f", "arguments": {"a": 2}})],
        14,
        [
            {
                "tool_calls": [
                    {"function": {"name": "f", "arguments": {"a": 1}}},
                    {"function": {"name": "f", "arguments": {"a": 2}}},
                ]
            }
        ],
    ),
    "a call whose index is null": (
        [
            call(index=None, id="a", function={"name": "f", "arguments": "{"}),
            call(index=None, function={"arguments": "}"}),
        ],
        2,
        [{"tool_calls": [{"index": None, "id": "a", "function": F}]}],
    ),
    "a call without arguments": (
        [
            call(index=0, id="a", function={"name": "f"}),
            call(index=1, id="b", function={"name": "f", "arguments": None}),
        ],
        0,
        [
            {
                "tool_calls": [
                    {"index": 0, "id": "a", "function": {"name": "f"}},
                    {"index": 1, "id": "b", "function": {"name": "f", "arguments": None}},
                ]
            }
        ],
    ),
    "a custom tool": (
        [
            call(index=0, id="a", type="custom", custom={"name": "f", "input": "Ti"}),
            call(index=0, type="custom", custom={"input": "de"}),
        ],
        4,
        [{"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "Tide"}}]}],
    ),
    "a function of old": (
        [
            chunk(delta={"function_call": {"name": "f", "arguments": "{"}}),
            chunk(delta={"function_call": {"arguments": "}"}}),
        ],
        2,
        [{"function_call": F}],
    ),
    "an index of null": (
        [{"choices": [{"index": None, "delta": {"content": "Ti"}}]}, {"choices": [{"delta": {"content": "de"}}]}],
        4,
        [{"content": "Tide"}],
    ),
    "nulls everywhere": (
        [
            {"choices": None},
            {"choices": [None]},
            chunk(delta=None),
            chunk(delta={"content": None, "tool_calls": None}),
            chunk(delta={"content": "a"}),
        ],
        1,
        [{"content": "a", "tool_calls": None}],
    ),
}


@pytest.mark.parametrize(("events", "chars", "output"), CHAT.values(), ids=CHAT.keys())
def test_a_chat(events: list[dict[str, Any]], chars: int, output: list[dict[str, Any]]) -> None:
    """What is said several times counts once, what comes in parts is put together, and both counts agree."""
    for body in (sent(*events), sent(*events, b"[DONE]"), b"".join(sent(event) for event in events)):
        assert read("chat.completions", body)["output_chars"] == chars
        assert json.dumps(assemble("chat.completions", SSE, None, body)) == json.dumps(output)


def test_choices_with_one_index_in_a_document() -> None:
    """In a whole answer they are choices of their own."""
    choices = [{"index": 0, "message": {"content": text}, "finish_reason": "stop"} for text in ("a", "bc")]
    body = json.dumps({"choices": choices}).encode()
    found = read("chat.completions", body, JSON)
    assert (found["finish_reasons"], found["output_chars"]) == (["stop", "stop"], 3)
    assert assemble("chat.completions", JSON, None, body) == [{"content": "a"}, {"content": "bc"}]


def test_an_image_is_output() -> None:
    """It has no characters, and it is the first token where nothing came before."""
    reading = ResponseReading("chat.completions", SSE, None, 200)
    reading.feed(sent(chunk(delta={"role": "assistant", "content": ""})), 1)
    reading.feed(
        sent(chunk(delta={"images": [{"image_url": {"url": "data:" + "A" * 400_000}}]}, finish_reason="stop")), 2
    )
    found = reading.finish(complete=True)
    assert found is not None
    assert (reading.first_token_at, found.output_chars, found.finish_reasons) == (2, 0, ["stop"])


BLOCK = {"type": "tool_use", "id": "t", "name": "f", "input": {}}


@pytest.mark.parametrize(
    ("deltas", "block"),
    [
        ([], BLOCK),
        ([""], BLOCK),
        (["", '{"a":', "1}"], {**BLOCK, "input": {"a": 1}}),
        (['{"a":'], {**BLOCK, "partial_json": '{"a":'}),
        (["{}"], BLOCK),
    ],
)
def test_the_input_of_a_tool(deltas: list[str], block: dict[str, Any]) -> None:
    """A tool without arguments has an empty input; one that was cut off keeps what came."""
    body = sent(
        {"type": "message_start", "message": {"role": "assistant"}},
        {"type": "content_block_start", "index": 0, "content_block": BLOCK},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": text}}
            for text in deltas
        ),
    )
    assert assemble("messages", SSE, None, body) == [{"role": "assistant", "content": [block]}]


def test_a_message_that_comes_again_as_a_whole() -> None:
    """Anthropic's form, too: what was said in parts is not counted twice."""
    parts = [
        {"type": "message_start", "message": {"role": "assistant", "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Tide"}},
    ]
    whole = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "Tide"}],
        "stop_reason": "end_turn",
    }
    for events in ([*parts, whole], [whole]):
        body = sent(*events)
        found = read("messages", body)
        assert (found["output_chars"], found["finish_reasons"], found["cut"]) == (4, ["end_turn"], False)
        assert assemble("messages", SSE, None, body) == [{"role": "assistant", "content": whole["content"]}]


def item(text: str, **members: Any) -> dict[str, Any]:
    """An output item with a text."""
    return {"id": "i", "type": "message", "content": [{"type": "output_text", "text": text}], **members}


def delta(text: str, index: int = 0) -> dict[str, Any]:
    """A delta of that text, with a content index of any kind."""
    return {
        "type": "response.output_text.delta",
        "output_index": 0,
        "content_index": index,
        "item_id": "i",
        "delta": text,
    }


ADDED = {"type": "response.output_item.added", "output_index": 0, "item": {"id": "i", "type": "message", "content": []}}
PART = {
    "type": "response.content_part.added",
    "output_index": 0,
    "content_index": 0,
    "part": {"type": "output_text", "text": ""},
}


@pytest.mark.parametrize(
    ("events", "output"),
    [
        ([ADDED, PART, delta("Ti", 1), delta("de", 2)], [item("Tide")]),
        ([ADDED, delta("Ti"), delta("de")], [item("Tide")]),
        (
            [ADDED, PART, delta("Ti", 1), delta("de", 2), {"type": "response.completed", "response": {"output": []}}],
            [item("Tide")],
        ),
        (
            [
                ADDED,
                delta("Ti"),
                delta("de"),
                {"type": "response.completed", "response": {"output": [item("de", status="completed")]}},
            ],
            [item("Tide", status="completed")],
        ),
        (
            [ADDED, delta("Ti"), {"type": "response.completed", "response": {"output": [item("Tide", id="other")]}}],
            [item("Tide", id="other")],
        ),
        (
            [delta("Ti"), {"type": "response.output_text.done", "output_index": 0, "text": "Tide"}],
            [{"content": item("Tide")["content"]}],
        ),
        (
            [
                ADDED,
                delta("Ti"),
                {"type": "response.output_item.done", "output_index": 0, "item": item("Tide", status="completed")},
            ],
            [item("Tide", status="completed")],
        ),
        ([{"type": "response.done", "response": {"output": [item("Tide")]}}], [item("Tide")]),
    ],
)
def test_a_streamed_response(events: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """The text is that of the deltas, whatever the last event repeats of it."""
    assert assemble("responses", SSE, None, sent(*events)) == output


def test_a_custom_tool_of_the_responses_api() -> None:
    """Its input comes in parts, and is output."""
    begun = {"type": "custom_tool_call", "id": "c", "name": "f", "input": ""}
    body = sent(
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": "Ti"},
        {"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": "de"},
        {"type": "response.completed", "response": {"status": "completed", "output": []}},
    )
    assert assemble("responses", SSE, None, body) == [{**begun, "input": "Tide"}]
    assert read("responses", body)["output_chars"] == 4


# Usage -----------------------------------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 9, "completion_tokens": 4}
STOP = {"index": 0, "delta": {}, "finish_reason": "stop"}
LONG = "A" * 400_000


@pytest.mark.parametrize(
    ("events", "usage"),
    [
        ([{"choices": [STOP], "usage": USAGE}], USAGE),
        ([{"choices": [STOP]}, {"choices": [], "usage": USAGE}], USAGE),
        ([{"choices": [{**STOP, "usage": USAGE}]}], USAGE),
        ([{"choices": [{**STOP, "usage": {"prompt_tokens": 1}}], "usage": USAGE}], USAGE),
        ([{"choices": [STOP], "x_groq": {"id": "r", "usage": USAGE}}], USAGE),
        (
            [{"choices": [STOP], "timings": {"prompt_n": 9, "predicted_n": 4, "prompt_ms": 1.5}}],
            {"prompt_n": 9, "predicted_n": 4},
        ),
        ([{"choices": [STOP], "timings": {"prompt_n": 1, "predicted_n": 1}, "usage": USAGE}], USAGE),
        ([{"choices": [STOP], "timings": {"prompt_n": 1, "predicted_n": 1}}, {"choices": [], "usage": USAGE}], USAGE),
        ([{"choices": [], "usage": USAGE}, {"choices": [STOP], "timings": {"prompt_n": 1, "predicted_n": 1}}], USAGE),
        ([{"choices": [{**STOP, "delta": {"content": LONG}}], "usage": USAGE}], USAGE),
        ([{"image": LONG, "choices": [{**STOP, "logprobs": [0.5] * 99_999}], "usage": USAGE}], USAGE),
        ([{"choices": [STOP], "usage": USAGE}, {"choices": [], "usage": None}], USAGE),
        ([{"choices": [STOP], "usage": USAGE}, {"choices": [], "usage": {"prompt_tokens": None}}], USAGE),
    ],
)
def test_where_the_usage_stands(events: list[dict[str, Any]], usage: dict[str, int]) -> None:
    """In a chunk, in a choice, in a server's own place, beside what is long; the metrics count it once."""
    found = read("chat.completions", sent(*events, b"[DONE]"))
    assert (found["usage"], found["finish_reasons"]) == (usage, ["stop"])
    counted = semconv.usage(found["usage"])
    assert {name: counted[name] for name in ("input", "output")} == {"input": 9, "output": 4}


def test_an_error_in_an_event_that_is_long() -> None:
    """An error stands beside what is long as well."""
    for api in ("chat.completions", "responses", "messages"):
        found = read(api, sent({"debug": LONG, "error": {"message": "m", "code": 500}}))
        assert found["error"] == {"type": None, "code": 500, "message": "m"}


@pytest.mark.parametrize("where", ["message", "event", "delta"])
def test_where_anthropic_has_its_usage(where: str) -> None:
    """In the message that starts, in the event, in the delta: it is merged, and the cached tokens are counted once."""
    usage = {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 1}
    start: dict[str, Any] = {"type": "message_start", "message": {"id": "m", "content": LONG}}
    last: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 5},
    }
    if where == "message":
        start["message"]["usage"] = usage
    elif where == "event":
        start["usage"] = usage
    else:
        last["delta"]["usage"] = usage
    found = read("messages", sent(start, last, {"type": "message_stop"}))
    assert found["usage"] == {**usage, "output_tokens": 5}
    assert semconv.usage(found["usage"]) == {"input": 7, "output": 5, "cache_read": 4}
