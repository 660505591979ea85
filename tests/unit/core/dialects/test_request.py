"""Parameters and fingerprints of requests."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.dialects import RequestReading
from extproc.core.records import fields_of

MESSAGES = [{"role": "user", "content": "A secret."}]


def read(
    body: bytes | dict[str, Any],
    api: str | None = "chat.completions",
    *,
    encoding: str | None = None,
    complete: bool = True,
) -> dict[str, Any]:
    """What is read of a request."""
    reading = RequestReading(api, "application/json", encoding)
    reading.feed(body if isinstance(body, bytes) else json.dumps(body).encode())
    found = reading.finish(complete)
    assert found is not None
    return fields_of(found)


def fingerprint(**params: Any) -> str:
    """The fingerprint of a chat request."""
    return str(read({"model": "m", "messages": MESSAGES, **params})["fingerprint"])


def test_an_unknown_api_is_not_read() -> None:
    """Of another path's body nothing is said."""
    reading = RequestReading(None, "application/json", None)
    reading.feed(b"{}")
    assert reading.finish(complete=True) is None


def test_parameters_without_content() -> None:
    """Every parameter is kept but the messages, which are counted and sized."""
    found = read({"messages": MESSAGES, "model": "m", "stream": True, "temperature": 0, "stop": ["a"], "user": None})
    assert found["params"] == {
        "messages": {"count": 1, "bytes": len(json.dumps(MESSAGES))},
        "model": "m",
        "stream": True,
        "temperature": 0,
        "stop": ["a"],
        "user": None,
    }
    assert (found["model"], found["stream"]) == ("m", True)
    assert "A secret" not in json.dumps(found)
    assert "parse_error" not in found


@pytest.mark.parametrize(
    ("api", "name"),
    [
        ("chat.completions", "messages"),
        ("completions", "prompt"),
        ("embeddings", "input"),
        ("responses", "input"),
        ("responses", "instructions"),
        ("messages", "messages"),
        ("messages", "system"),
    ],
)
def test_content_of_each_api(api: str, name: str) -> None:
    """What each API calls its content is never kept."""
    assert read({name: "A secret."}, api)["params"] == {name: {"count": 1, "bytes": 11}}


@pytest.mark.parametrize("value", [None, 1, "true", [], {}])
def test_model_and_stream_of_another_type(value: Any) -> None:
    """A model that is no string and a stream that is no boolean are null, and kept among the parameters."""
    found = read({"model": value if value != "true" else 1, "stream": value})
    assert (found["model"], found["stream"]) == (None, None)
    assert found["params"]["stream"] == value


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b"--boundary\r\n", b"\xff\xfe{\0}\0", b'{"model":"m"', b'{"model":nope}']
)
def test_a_body_that_is_no_request(body: bytes) -> None:
    """Anything gives a part of the record, with the fault named unless there was no body at all."""
    found = read(body)
    assert found["api"] == "chat.completions"
    assert ("parse_error" in found) == bool(body)


def test_a_body_cut_off_keeps_what_came() -> None:
    """The parameters before the cut are known."""
    found = read(b'{"model":"m","seed":7,"messages":[{"role"', complete=False)
    assert found["model"] == "m"
    assert found["params"]["seed"] == 7
    assert found["parse_error"] == "cut off at byte 41"


def test_coded_bodies() -> None:
    """A compressed body is read; one that is not what its header says is noted."""
    body = gzip.compress(b'{"model":"m"}')
    assert read(body, encoding="gzip")["model"] == "m"
    assert read(body[:-3], encoding="gzip")["parse_error"] == f"gzip: cut off at byte {len(body) - 3}"
    assert read(b'{"model":"m"}', encoding="gzip")["model"] == "m"
    assert read(b"\0{", encoding="gzip")["parse_error"].startswith("gzip: not valid")
    assert read(b"\0{", encoding="exotic")["parse_error"] == "unknown content-encoding 'exotic'"


def test_fingerprints_do_not_depend_on_values() -> None:
    """Key order, values of the same type and the messages' text change nothing."""
    first = fingerprint(temperature=0.5, seed=1, user="a", stop=["x"], logit_bias={"1": 2})
    assert fingerprint(logit_bias={"7": 1, "8": 9}, user="b", seed=10**30, temperature=1, stop=[]) == first
    other = read(
        {"stop": [], "user": "", "seed": 2, "temperature": 1e9, "logit_bias": {}, "messages": [], "model": "n"}
    )
    assert other["fingerprint"] == first


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": None},
        {"temperature": "1"},
        {"temperature": True},
        {"temperature": 1, "seed": 1},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "text"}},
        {"tools": []},
        {"tools": [{"type": "function"}]},
    ],
)
def test_fingerprints_depend_on_the_shape(params: dict[str, Any]) -> None:
    """Another set of parameters, another type or another schema is another shape."""
    assert fingerprint(**params) != fingerprint(temperature=1)


def test_fingerprints_of_schemas() -> None:
    """A schema counts by what it says, not by its key order; also one that only tolerant decoders accept."""
    first = fingerprint(response_format={"type": "json_schema", "json_schema": {"a": 1, "b": float("nan")}})
    assert fingerprint(response_format={"json_schema": {"b": float("nan"), "a": 1}, "type": "json_schema"}) == first
    assert fingerprint(response_format={"type": "json_schema", "json_schema": {"a": "\ud800"}}) != first


def test_large_schemas_are_told_apart() -> None:
    """Tools too large to keep still count by their content."""
    assert fingerprint(tools=["x" * 70_000]) != fingerprint(tools=["y" * 70_000])
    assert fingerprint(extra=["x" * 70_000]) == fingerprint(extra=["y" * 70_000])


def test_memory_is_bounded() -> None:
    """A hundred megabytes of messages are counted, not held."""
    reading = RequestReading("chat.completions", None, None)
    reading.feed(b'{"messages":["')
    piece = b"x" * 100_000
    tracemalloc.start()
    for _ in range(1000):
        reading.feed(piece)
    reading.feed(b'"],"model":"m"}')
    found = reading.finish(complete=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert found.model == "m"
    assert (found.params or {})["messages"] == {"count": 1, "bytes": 100_000_004}
    assert peak < 2_000_000


@given(
    st.binary(),
    st.sampled_from([None, "gzip", "br", "zstd", "deflate"]),
    st.sampled_from(["chat.completions", "x", ""]),
)
def test_any_bytes(body: bytes, encoding: str | None, api: str) -> None:
    """Nothing raises, whatever comes."""
    read(body, api, encoding=encoding)
    read(b'{"' + body, api)
