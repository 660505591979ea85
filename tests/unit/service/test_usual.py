"""The usual messages, read from their bytes: always what protobuf reads, or left to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from support.messages import STREAMED, body, head

from extproc._proto.ext_proc_pb2 import ProcessingRequest
from extproc.core.events import Headers
from extproc.core.redact import Redactor
from extproc.service import usual, wire
from extproc.service.wire import Modes

names = st.text(min_size=0, max_size=70)
values = st.one_of(st.binary(max_size=40), st.binary(min_size=120, max_size=300))
SHIPPED_ATTRIBUTES = ("source.address", "upstream.address", "response.flags", "response.code_details", "request.path")
modes = st.sampled_from([None, wire.SHIPPED, Modes(2, 3), Modes(4, 4, observability=True)])


@st.composite
def messages(draw: st.DrawFn) -> ProcessingRequest:
    """A message of any kind, with anything that may stand beside it."""
    message = ProcessingRequest()
    part = draw(st.sampled_from(["request", "response"])) + draw(st.sampled_from(["_headers", "_body", "_trailers"]))
    inner = getattr(message, part)
    inner.SetInParent()
    if part.endswith("_body"):
        inner.body = draw(st.one_of(values, st.just(b"x" * 20_000)))
        inner.end_of_stream_without_message = draw(st.sampled_from([False, False, True]))
    else:
        listed = inner.trailers if part.endswith("_trailers") else inner.headers
        listed.SetInParent()
        for name, value in draw(st.lists(st.tuples(names, values), max_size=4)):
            header = listed.headers.add(key=name, raw_value=value)
            if draw(st.sampled_from([False, False, False, True])):
                header.value = "old"
    if not part.endswith("_trailers"):
        inner.end_of_stream = draw(st.booleans())
    if draw(st.booleans()):
        message.metadata_context.SetInParent()
        if draw(st.booleans()):
            message.metadata_context.filter_metadata["jwt"].update({"sub": "somebody"})
    if draw(st.booleans()):
        space = draw(st.sampled_from([wire.FILTER, "another.filter"]))
        for name in draw(st.sets(st.sampled_from(SHIPPED_ATTRIBUTES))):
            said: Any = draw(st.sampled_from(["10.0.0.1:80", "", 4]))
            message.attributes[space].update({name: said})
    if draw(st.booleans()):
        message.protocol_config.request_body_mode = draw(st.integers(0, 5))  # type: ignore[assignment]
        message.protocol_config.response_body_mode = draw(st.integers(0, 7))  # type: ignore[assignment]
    message.observability_mode = draw(st.sampled_from([False, False, True]))
    return message


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message's bytes with some of them changed, cut out, doubled or put in, or with another message behind them."""
    data = bytearray(draw(messages()).SerializeToString())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "cut", "put", "double", "end", "join"])):
            case "set":
                data[at : at + 1] = bytes((draw(st.integers(0, 255)),))
            case "cut":
                del data[at : at + draw(st.integers(1, 4))]
            case "put":
                data[at:at] = draw(st.sampled_from([b"\0", b"\x80", b"\x0a", b"\x10\x00", b"\x18\x02", b"\x50\x01"]))
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 20))]
            case "end":
                del data[at:]
            case "join":
                data += draw(messages()).SerializeToString()
    return bytes(data)


def outcome(read: Callable[..., wire.Message | None], data: bytes, modes: Modes | None) -> object:
    """What a reading makes of the bytes."""
    try:
        return read(data, modes, 7)
    except DecodeError:
        return DecodeError


@given(mutated(), modes)
@example(b"\x2a\x04\x0a\x01x\x10\x00", wire.SHIPPED)
@example(b"\x2a\x05\x0a\x01x\x10\x01", wire.SHIPPED)
@example(b"\x2a\x05\x0a\x04x\x10\x01\x42\x00", wire.SHIPPED)
@example(b"\x12\x07\x0a\x05\x0a\x03\x0a\x01\xff", wire.SHIPPED)
@example(b"\x2a\x03\x0a\x01x\x42\x01\x08", wire.SHIPPED)
@example(b"\x2a\x03\x0a\x01x\x32\x00", wire.SHIPPED)
def test_both_readings_agree(data: bytes, modes: Modes | None) -> None:
    """Whatever the bytes are, they mean what protobuf says that they mean, at the first look and at the second."""
    expected = outcome(wire.parse, data, modes)
    assert outcome(wire.read, data, modes) == expected
    assert outcome(wire.read, data, modes) == expected


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
def test_what_envoy_sends_is_usual(end: bool, size: int) -> None:
    """Else nothing would be gained, and nobody would notice."""
    message = body("response", b"x" * size, end=end)
    message.metadata_context.SetInParent()
    assert usual.body(message.SerializeToString()) == (b"x" * size, end, b"\x42\x00")
    first = head("request", end=end, first=STREAMED, __path="/v1", a="x" * size)
    headers = [(":path", b"/v1"), ("a", b"x" * size)]
    assert usual.headers(first.SerializeToString()) == (headers, end, first.SerializeToString()[-6:])


def test_a_credential_is_gone_before_the_redactor_forgets_it() -> None:
    """What is kept of headers is bounded more tightly than what `Redactor` keeps, in how many and in how long."""

    def read(name: str, value: str) -> None:
        header: Any = {name: value}
        wire.read(head("request", **header).SerializeToString(), wire.SHIPPED, 0)

    usual.entry.cache_clear()
    read("authorization", "canary")
    for number in range(usual.KEPT_ENTRIES):
        read("a", str(number))
    misses = usual.entry.cache_info().misses
    read("authorization", "canary")
    assert usual.entry.cache_info().misses == misses + 1
    read("authorization", "x" * usual.KEPT_ENTRY_BYTES)
    assert usual.entry.cache_info().misses == misses + 1
    assert (Redactor(b"k" * 16).mark.cache_info().maxsize or 0) >= usual.KEPT_ENTRIES


@pytest.mark.parametrize(
    ("attribute", "metadata", "kept"),
    [("source.address", {}, True), ("request.path", {}, False), ("source.address", {"token": "canary"}, False)],
)
def test_what_may_hold_a_credential_is_not_kept(attribute: str, metadata: dict[str, Any], kept: bool) -> None:
    """A path is the client's, and metadata other filters'; an address is Envoy's, and is read once."""
    message = head("request", first=STREAMED)
    message.attributes[wire.FILTER].update({attribute: "canary"})
    if metadata:
        message.metadata_context.filter_metadata["jwt"].update(metadata)
    first, second = (wire.read(message.SerializeToString(), None, 0) for _ in range(2))
    assert first is not None
    assert second is not None
    assert isinstance(first.event, Headers)
    assert isinstance(second.event, Headers)
    assert first.event.attributes == second.event.attributes == {attribute: "canary"}
    assert (first.event.attributes is second.event.attributes) == kept
