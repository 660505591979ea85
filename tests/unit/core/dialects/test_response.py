"""Streams and documents read while they pass."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from extproc.core.dialects import ResponseReading
from extproc.core.records import fields_of

SSE, JSON = "text/event-stream", "application/json"


def read(
    *pieces: bytes,
    api: str = "chat.completions",
    content_type: str | None = SSE,
    encoding: str | None = None,
    status: int | None = 200,
    complete: bool = True,
) -> dict[str, Any]:
    """What is read of a response."""
    reading = ResponseReading(api, content_type, encoding, status)
    for at, piece in enumerate(pieces):
        reading.feed(piece, at)
    found = reading.finish(complete)
    assert found is not None
    return fields_of(found)


def frame(body: Any, event: str | None = None) -> bytes:
    """One event."""
    return (f"event: {event}\n" if event else "").encode() + b"data: " + json.dumps(body).encode() + b"\n\n"


def token(**delta: Any) -> bytes:
    """One chat chunk."""
    return frame({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def test_an_unknown_api_is_not_read() -> None:
    """Of another path's answer nothing is said, and its chunks are not asked for."""
    reading = ResponseReading(None, SSE, None, 200)
    assert not reading.wants_chunks
    reading.feed(token(content="x"), 1)
    assert reading.finish(complete=True) is None


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning": "x"},
        {"reasoning_content": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]},
        {"function_call": {"name": "f"}},
        {"content": [{"type": "text", "text": "x"}]},
    ],
)
def test_what_is_a_first_token(delta: dict[str, Any]) -> None:
    """The first token comes with the first output that is not empty, of any kind."""
    reading = ResponseReading("chat.completions", SSE, None, 200)
    for at, piece in enumerate(
        (token(role="assistant", content=""), token(content=None, tool_calls=[]), token(**delta))
    ):
        assert reading.wants_chunks
        reading.feed(piece, at)
    assert reading.first_token_at == 2
    assert not reading.wants_chunks


@pytest.mark.parametrize(
    "piece",
    [b": ping\n\n", frame({"choices": [], "usage": {"x": 1}}), frame({"error": {"code": 1}}), b"data: [DONE]\n\n"],
)
def test_what_is_no_first_token(piece: bytes) -> None:
    """Comments, usage, errors and [DONE] are no output."""
    reading = ResponseReading("chat.completions", SSE, None, 200)
    reading.feed(piece, 1)
    assert reading.first_token_at is None
    assert reading.wants_chunks


def test_first_token_of_a_last_event_without_blank_line() -> None:
    """An event that only the end completes counts with the chunk that brought it."""
    reading = ResponseReading("chat.completions", SSE, None, 200)
    reading.feed(token(content="")[:-1], 1)
    reading.feed(b"\n" + token(content="x")[:-1], 2)
    before, found = reading.first_token_at, reading.finish(complete=True)
    assert (before, reading.first_token_at) == (None, 2)
    assert found is not None
    assert (found.output_chars, found.parse_error) == (1, UNSET)


@pytest.mark.parametrize("content_type", [SSE, JSON, None, "text/plain"])
def test_the_first_byte_tells_a_stream(content_type: str | None) -> None:
    """A stream under any type is read as one, and a JSON error under the type of a stream is read as JSON."""
    assert read(b"\r\n", token(content="xy"), content_type=content_type)["output_chars"] == 2
    error = b'\n {"error":{"type":"T","code":400}}'
    assert read(error, content_type=content_type, status=400)["error"] == {"type": "T", "code": 400, "message": None}


@pytest.mark.parametrize("body", [b"upstream connect error", b"<html></html>", b"", b"\x89PNG"])
def test_text_is_no_parse_error(body: bytes) -> None:
    """A body that does not claim to be JSON has nothing wrong with it."""
    found = read(body, content_type="text/plain", status=503)
    assert found["error"] is None
    assert "parse_error" not in found


def test_text_that_goes_on_like_json() -> None:
    """What a body is, its beginning says, wherever it is cut."""
    for at in range(1, 20):
        assert "parse_error" not in read(b"limit "[:at], b"limit "[at:], b"[no], {not json}", content_type="text/plain")


@pytest.mark.parametrize(("body", "problem"), [(b"nope", "not an object at byte 0"), (b'{"id":', "cut off at byte 6")])
def test_json_that_is_none(body: bytes, problem: str) -> None:
    """A body that claims to be JSON and is not is noted."""
    assert read(body, content_type=JSON)["parse_error"] == problem


def test_a_document_with_bytes_that_are_no_text() -> None:
    """Bytes that are not UTF-8 within an answer are noted, and the answer is read all the same."""
    body = b'\xef\xbb\xbf{"choices":[{"index":0,"message":{"content":"a\xff"},"finish_reason":"stop"}],"id":"c"}'
    found = read(body, content_type=JSON)
    assert (found["output_chars"], found["finish_reasons"], found["response_id"]) == (2, ["stop"], "c")
    assert found["parse_error"] == "not UTF-8 at byte 49"


@pytest.mark.parametrize("body", [b" " * 5000, b"{}", b"\xef\xbb\xbf", b"\xef\xbb\xbf{}", b"\xef"])
def test_a_document_of_nothing(body: bytes) -> None:
    """An empty body, of whatever kind of emptiness, is no fault."""
    found = read(body, content_type=JSON)
    assert (found["output_chars"], found["error"]) == (0, None)


def test_an_error_status_is_an_error() -> None:
    """Any JSON under an error status is an error, whatever its shape."""
    assert read(b'{"detail":"x"}', content_type=JSON, status=422)["error"] == {
        "type": None,
        "code": None,
        "message": "x",
    }
    assert read(b'{"choices":[]}', content_type=JSON, status=200)["error"] is None


def test_odd_events_are_noted_by_number() -> None:
    """The first event that cannot be read is named, without its content, and the others count."""
    found = read(token(content="a"), b"data: {nope}\n\ndata: \n\ndata: 7\n\n", token(content="b"), b"data: [DONE]\n\n")
    assert found["parse_error"] == "event 1: malformed at byte 1"
    assert (found["output_chars"], found["done"]) == (2, True)


@pytest.mark.parametrize("api", ["chat.completions", "completions", "responses", "messages"])
def test_an_event_that_is_null_says_nothing(api: str) -> None:
    """llama.cpp begins so: it is no error, and nothing that cannot be read."""
    reading = ResponseReading(api, "text/event-stream", None, 200)
    reading.feed(b"data: null\n\ndata: null\n\n" + token(content="a"), 1)
    found = reading.finish(complete=True)
    assert found is not None
    assert found.error is None
    assert found.parse_error is UNSET


def test_done_twice_and_data_after_done() -> None:
    """[DONE] ends nothing by itself."""
    done = b"data: [DONE]\n\n"
    found = read(token(content="a"), done, done + token(content="b") + frame({"choices": [], "usage": {"n": 1}}) + done)
    assert (found["done"], found["output_chars"], found["usage"]) == (True, 2, {"n": 1})


def test_a_stream_without_its_end() -> None:
    """Without [DONE] the answer is not done."""
    assert read(token(content="a"))["done"] is False


UNUSUAL: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"content": "ab"}}], "usage": "none"},
    {"choices": [{"index": 0, "delta": {"content": "ab", "refusal": 7}}]},
    {"choices": [{"index": 0, "delta": {"content": "ab", "tool_calls": "x"}, "finish_reason": 3}]},
    {"choices": [{"index": 0, "delta": {"content": "ab"}}, None, {"index": "x", "delta": 7}], "id": 7},
    {"choices": [{"delta": {"content": "ab"}}], "error": None, "model": None},
]


@pytest.mark.parametrize("chunk", UNUSUAL)
def test_unusual_types_give_what_can_be_told(chunk: dict[str, Any]) -> None:
    """A chunk with unexpected types is read for what it has, alone and in a batch."""
    alone = read(frame(chunk))
    assert alone["output_chars"] == 2
    batch = read(token(content="c") + frame(chunk) + token(content="d"))
    assert batch["output_chars"] == 4
    assert "parse_error" not in batch


values = st.none() | st.booleans() | st.integers(-1, 3) | st.text("ab", max_size=2)
deltas = st.dictionaries(
    st.sampled_from(["content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call", "role"]),
    values | st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"arguments": values})}), max_size=2),
)
chunks = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries({"index": values, "delta": deltas, "finish_reason": values}), max_size=2
        )
    },
    optional={
        "id": values,
        "model": values,
        "usage": values | st.just({"n": 1}),
        "error": st.none() | st.just({"code": 1}),
    },
)


@given(st.lists(chunks, max_size=4))
def test_batches_give_what_single_events_give(bodies: list[dict[str, Any]]) -> None:
    """Decoding many events at once, or decoding them fully, changes nothing."""
    frames = [frame(body) for body in bodies]
    expected = read(*frames)
    assert read(b"".join(frames)) == expected
    # A member of a type that the fast decoder refuses, which nothing reads.
    refused = [frame({**body, "choices": [*body["choices"], 0]}) for body in bodies]
    assert read(*refused) == expected


def test_an_event_too_long_is_noted() -> None:
    """An event over the limit loses its text, so the characters are unknown; what follows counts."""
    found = read(token(content="x" * 300_000), token(content="y"), b"data: [DONE]\n\n")
    assert found["parse_error"] == "event 0: too long at byte 262144"
    assert (found["output_chars"], found["done"], found["response_model"]) == (None, True, "m")


def test_choices_of_an_answer_too_long_to_be_held() -> None:
    """Finish reasons and texts are found between megabytes of log probabilities."""
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b"}] * 20}] * 1000}
    choices = [
        {"index": 1, "logprobs": logprobs, "message": {"content": "abc"}, "finish_reason": "stop"},
        {"index": 0, "message": {"content": "de"}, "logprobs": logprobs, "finish_reason": "length"},
    ]
    body = json.dumps({"choices": choices, "id": "c", "model": "m", "usage": {"n": 0}}).encode()
    assert len(body) > 500_000
    for step in (997, 65536, len(body)):
        found = read(*[body[at : at + step] for at in range(0, len(body), step)], content_type=JSON)
        assert found["finish_reasons"] == ["length", "stop"]
        assert (found["output_chars"], found["usage"], found["done"]) == (5, {"n": 0}, True)


def test_a_text_too_long_to_be_held_is_not_counted() -> None:
    """The characters of a text that was not held are unknown, not zero."""
    body = json.dumps({"choices": [{"message": {"content": "x" * 300_000}, "finish_reason": "stop"}]}).encode()
    found = read(body, content_type=JSON)
    assert (found["output_chars"], found["finish_reasons"]) == (None, ["stop"])


def test_a_coded_stream_cut_off() -> None:
    """What came of a compressed stream counts, and the cut is noted."""
    stream = zlib.compressobj(wbits=31)
    body = stream.compress(token(content="abc")) + stream.flush(zlib.Z_SYNC_FLUSH)
    found = read(body, encoding="gzip", complete=False)
    assert found["output_chars"] == 3
    assert found["parse_error"] == f"gzip: cut off at byte {len(body)}"


@pytest.mark.parametrize(
    "head", [b"data: ", b'data: {"choices":[', b'{"choices":[{"message":{"content":"', b": ", b" "]
)
def test_memory_is_bounded(head: bytes) -> None:
    """A hundred megabytes without an end are not held."""
    reading = ResponseReading("chat.completions", None, None, 200)
    reading.feed(head, 0)
    piece = b"x" * 100_000
    tracemalloc.start()
    for at in range(1000):
        reading.feed(piece, at)
    reading.finish(complete=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"data: ", b"event: error\ndata: ", b'data: {"choices":[{', b"{", b'{"choices":[{"delta":']),
    st.sampled_from(["chat.completions", "completions", "embeddings", "responses", "messages"]),
    st.sampled_from([None, "gzip", "br", "zstd", "deflate"]),
)
def test_any_bytes(body: bytes, head: bytes, api: str, encoding: str | None) -> None:
    """Nothing raises, whatever comes."""
    read(head + body, api=api, encoding=encoding)
    read(head, body + b"\n\n", api=api, status=500)


NAMES = [
    "choices",
    "delta",
    "message",
    "content",
    "tool_calls",
    "function",
    "arguments",
    "index",
    "usage",
    "error",
    "type",
    "code",
    "response",
    "output",
    "item",
    "text",
    "thinking",
    "partial_json",
    "content_block",
    "stop_reason",
    "id",
    "model",
    "status",
    "incomplete_details",
    "reason",
    "data",
]
TYPES = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "message_delta",
    "message_stop",
    "error",
    "response.completed",
    "response.failed",
    "response.output_text.delta",
    "response.output_item.added",
]

json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=2) | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(NAMES), json_values),
    st.sampled_from(TYPES),
    st.sampled_from(["chat.completions", "completions", "embeddings", "responses", "messages"]),
)
def test_any_json(body: dict[str, Any], kind: str, api: str) -> None:
    """No JSON raises anything, as an event or as a document, whatever its members are."""
    read(frame(body), frame({**body, "type": kind}), frame({**body, "type": kind}, kind), api=api)
    read(json.dumps(body).encode(), api=api, content_type=JSON, status=400)
