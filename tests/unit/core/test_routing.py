"""Headers for Envoy's routing: which are asked for, and what a body gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core import head, routing
from extproc.core.redact import Redactor
from extproc.core.routing import RoutingHeaders

ALL = RoutingHeaders(model=True, prefix_bytes=64)
REDACTOR = Redactor(b"k" * 32)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", RoutingHeaders()),
        ("x-model", RoutingHeaders(model=True)),
        ("x-prompt-prefix", RoutingHeaders(prefix_bytes=1024)),
        (" x-model , x-prompt-prefix=256,x-client-key,", RoutingHeaders(model=True, prefix_bytes=256, client=True)),
        ("x-prompt-prefix=9999999", RoutingHeaders(prefix_bytes=1024 * 1024)),
    ],
)
def test_what_is_asked_for(text: str, asked: RoutingHeaders) -> None:
    """Names of headers, one with a number of bytes."""
    assert routing.parse(text) == asked


@pytest.mark.parametrize(
    "text", ["model", "x-model=1", "x-prompt-prefix=x", "x-prompt-prefix=0", "x-prompt-prefix=-1", "x-client-key=a"]
)
def test_what_cannot_be_asked_for(text: str) -> None:
    """It is named, with what was expected."""
    with pytest.raises(ValueError, match=f"expected x-model, x-prompt-prefix=BYTES or x-client-key, got '{text}'"):
        routing.parse(text)


@pytest.mark.parametrize(
    ("body", "model", "why"),
    [
        (b'{"messages": [], "model": "a/b-7"}', "a/b-7", None),
        (b'{"model": "a", "model": "b"}', "b", None),
        (b'{"model": "a", "x": NaN}', "a", None),
        (b'{"model": "a", "x": "\\ud800"}', "a", None),
        (b"", None, "no JSON object"),
        (b"[]", None, "no JSON object"),
        (b'{"model": "a"', None, "no JSON object"),
        (b"[" * 100_000, None, "no JSON object"),
        (b"\xff", None, "no JSON object"),
        (b"{}", None, "no model"),
        (b'{"model": null}', None, "no model"),
        (b'{"model": ""}', None, "a model that no header can carry"),
        (b'{"model": ["a"]}', None, "a model that no header can carry"),
        (b'{"model": " a"}', None, "a model that no header can carry"),
        ('{"model": "ä"}'.encode(), None, "a model that no header can carry"),
        (b'{"model": "a\\r\\nx: y"}', None, "a model that no header can carry"),
        (b'{"model": "%b"}' % (b"m" * 257), None, "a model that no header can carry"),
    ],
)
def test_the_model(body: bytes, model: str | None, why: str | None) -> None:
    """As a model server reads it; what cannot stand in a header is none."""
    assert routing.of_body(RoutingHeaders(model=True), body, None) == ({} if model is None else {"x-model": model}, why)


def test_a_compressed_body() -> None:
    """It is not opened on the way."""
    assert routing.of_body(ALL, b"\x1f\x8b", "gzip") == ({}, "content-encoding gzip")


def prefix(size: int = 64, **document: Any) -> str:
    """The hash for a body."""
    headers, _ = routing.of_body(RoutingHeaders(prefix_bytes=size), json.dumps(document).encode(), None)
    return headers["x-prompt-prefix"]


def chat(*texts: str, role: str = "user") -> list[dict[str, Any]]:
    """Messages with these texts."""
    return [{"role": role, "content": text} for text in texts]


SYSTEM = "You are a helpful assistant. " * 10


def test_the_same_beginning_has_the_same_hash() -> None:
    """Whatever follows it, in whatever order the members stand, and however the content is written."""
    one = prefix(messages=chat(SYSTEM, "one"), model="a")
    assert one == prefix(model="b", temperature=1, messages=chat(SYSTEM, "two", "three"))
    assert one == prefix(messages=[{"content": [{"type": "text", "text": SYSTEM}], "role": "user"}])
    assert len(one) == 16


@pytest.mark.parametrize(
    "document",
    [
        {"messages": chat("Another beginning", SYSTEM)},
        {"messages": chat(SYSTEM, role="system")},
        {"prompt": SYSTEM},
        {"prompt": [1, 2, 3]},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        {"messages": None},
        {"messages": [None, 5]},
    ],
)
def test_another_beginning_has_another_hash(document: dict[str, Any]) -> None:
    """Who speaks is part of it. A shape that nobody expects has a hash as well."""
    assert prefix(**document) != prefix(messages=chat(SYSTEM))


def test_only_so_many_bytes_count() -> None:
    """What differs behind them makes no difference."""
    assert prefix(20, prompt="a" * 20 + "b") == prefix(20, prompt="a" * 20 + "c")
    assert prefix(21, prompt="a" * 20 + "b") != prefix(21, prompt="a" * 20 + "c")


def test_the_callers_key_is_the_mark_of_the_record() -> None:
    """Never the credential itself; nothing for a request that carries none."""
    of = head.read([("accept", b"*/*"), ("authorization", b"Bearer secret")], REDACTOR)
    assert dict(of.fields)["authorization"] == f"redacted:{routing.client_key(of)}"
    assert routing.client_key(head.read([("cookie", b"a=b")], REDACTOR)) is None
    assert routing.client_key(head.read([("x-api-key", b"1")], REDACTOR)) is not None


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(["model", "messages", "role", "content", "prompt", "text"]), inner | st.lists(inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_nothing_in_a_body_raises(body: bytes) -> None:
    """Any bytes, and any JSON."""
    headers, _ = routing.of_body(ALL, body, None)
    assert headers.keys() <= {"x-model", "x-prompt-prefix"}
