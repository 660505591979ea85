"""Envoy's bytes as events, and the replies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from support.messages import DUPLEX, STREAMED, body, head, kind, trailers

from extproc._proto.ext_proc_pb2 import HttpHeaders, ProcessingRequest, ProcessingResponse
from extproc.core.events import Body, Direction, Headers, Trailers
from extproc.service import wire
from extproc.service.transport import NO_REPLY
from extproc.service.wire import BodyMode, Kind, Modes


def read(message: ProcessingRequest, modes: Modes | None = None) -> wire.Message:
    """The message as the core sees it, at time 7."""
    found = wire.read(message.SerializeToString(), modes, 7)
    assert found is not None
    return found


@pytest.mark.parametrize("direction", Direction)
def test_each_kind_of_message_becomes_its_event(direction: Direction) -> None:
    """Headers, body and trailers of either direction, with the time they came."""
    messages = head(direction.value, end=True, a="1"), body(direction.value, b"x", end=True), trailers(direction.value)
    assert [read(message, wire.SHIPPED).event for message in messages] == [
        Headers(direction, [("a", b"1")], True, 7),
        Body(direction, b"x", True, 7),
        Trailers(direction, [], 7),
    ]


def test_the_raw_value_of_a_header_comes_first() -> None:
    """Envoy#31555, CVE-2023-27488: `value` is what an old runtime setting fills, and cannot hold every byte."""
    message = ProcessingRequest(request_headers=HttpHeaders())
    raw, old = (message.request_headers.headers.headers.add() for _ in range(2))
    raw.key, raw.raw_value = "raw", b"\xff"
    old.key, old.value = "old", "é"
    event = read(message).event
    assert isinstance(event, Headers)
    assert event.headers == [("raw", b"\xff"), ("old", "é".encode())]


def test_attributes_have_envoys_names_and_types() -> None:
    """Texts stay texts, also empty ones; flags are a number."""
    message = head("response", __status="200")
    attributes: dict[str, Any] = {"upstream.address": "10.0.0.1:80", "xds.route_name": "", "response.flags": 4}
    message.attributes[wire.FILTER].update(attributes)
    message.attributes["another.filter"].update({"x": "y"})
    event = read(message).event
    assert isinstance(event, Headers)
    assert event.attributes == attributes


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        (STREAMED, Modes(1, 1, may_hold=True)),
        (DUPLEX, Modes(4, 4)),
        ({"request_body_mode": 1, "response_body_mode": 4}, Modes(1, 4)),
        (STREAMED | {"send_body_without_waiting_for_header_response": True}, Modes(1, 1)),
        (None, Modes()),
    ],
)
def test_the_first_message_tells_the_modes(config: dict[str, int] | None, modes: Modes) -> None:
    """What Envoy says counts, not what is shipped; a hold is possible only where an override has an effect."""
    assert read(head("request", first=config)).modes == modes
    assert read(head("request", first=config), wire.SHIPPED).modes is None


@pytest.mark.parametrize(
    ("mode", "end", "whole", "cut"),
    [
        (BodyMode.STREAMED, False, False, False),
        (BodyMode.BUFFERED, False, True, False),
        (BodyMode.BUFFERED_PARTIAL, False, True, True),
        (BodyMode.BUFFERED_PARTIAL, True, True, False),
    ],
)
def test_a_buffered_body_is_one_message(mode: BodyMode, end: bool, whole: bool, cut: bool) -> None:
    """And what BUFFERED_PARTIAL leaves out is never shown."""
    event = read(body("request", b"x", end=end), Modes(request=mode)).event
    assert isinstance(event, Body)
    assert (event.whole, event.cut) == (whole, cut)


def test_an_end_without_a_message_is_an_end() -> None:
    """A newer Envoy says so in a field of its own (GRPC mode)."""
    message = body("response")
    message.response_body.end_of_stream_without_message = True
    event = read(message).event
    assert isinstance(event, Body)
    assert event.end_of_stream


def test_what_is_no_message_raises_and_what_is_unknown_does_not() -> None:
    """Garbage is the transport's to refuse; a later Envoy's message is not."""
    with pytest.raises(DecodeError):
        wire.read(b"\xff\xff", None, 0)
    assert wire.read(b"", None, 0) is None


@pytest.mark.parametrize("message_kind", Kind)
def test_a_neutral_reply_is_of_the_messages_kind(message_kind: Kind) -> None:
    """The replies that are written down as bytes are what protobuf makes of them."""
    direction = "request" if message_kind.name.startswith("REQUEST") else "response"
    makers: dict[str, Callable[[str], ProcessingRequest]] = {"HEADERS": head, "BODY": body, "TRAILERS": trailers}
    made = makers[message_kind.name.rpartition("_")[2]](direction)
    reply = wire.neutral(read(made), wire.SHIPPED)
    assert kind(reply) == message_kind.name.lower()
    assert ProcessingResponse.FromString(reply).SerializeToString() == reply
    assert wire.neutral(read(made), Modes(observability=True)) == NO_REPLY


@pytest.mark.parametrize("hold", [True, False])
def test_the_reply_to_request_headers_carries_the_id(hold: bool) -> None:
    """Assembled from two halves, it is what protobuf would have made; the override names every mode."""
    id = "01a1fbca-058c-746d-8c4e-43adff5f8908"
    reply = ProcessingResponse.FromString(wire.accepted(id, hold=hold))
    assert json_format.MessageToDict(reply.dynamic_metadata) == {"extproc": {"id": id}}
    assert reply.WhichOneof("response") == "request_headers"
    assert reply.HasField("mode_override") == hold
    if hold:
        assert json_format.MessageToDict(reply.mode_override) == {
            "requestHeaderMode": "SEND",
            "responseHeaderMode": "SEND",
            "requestBodyMode": "BUFFERED",
            "responseBodyMode": "STREAMED",
            "requestTrailerMode": "SEND",
            "responseTrailerMode": "SEND",
        }


def test_the_reply_to_an_answer_without_a_request_carries_the_id() -> None:
    """So that Envoy's entry names the exchange."""
    id = "01a1fbca-058c-746d-8c4e-43adff5f8908"
    reply = ProcessingResponse.FromString(wire.answered(id))
    assert json_format.MessageToDict(reply.dynamic_metadata) == {"extproc": {"id": id}}
    assert reply.WhichOneof("response") == "response_headers"


@pytest.mark.parametrize("answered", [True, False])
def test_the_reply_to_an_answers_headers_names_the_exchange(answered: bool) -> None:
    """In place of what the backend has set; with Envoy's own part behind it where it has not heard the id."""
    id = "01a1fbca-058c-746d-8c4e-43adff5f8908"
    reply = ProcessingResponse.FromString(wire.named(id) + (wire.answered(id) if answered else b""))
    [option] = reply.response_headers.response.header_mutation.set_headers
    assert (option.header.key, option.header.raw_value) == ("x-audit-id", id.encode())
    assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD
    assert json_format.MessageToDict(reply.dynamic_metadata) == ({"extproc": {"id": id}} if answered else {})


def test_a_refusal_is_a_503_in_openais_shape() -> None:
    """Clients of the API read it as they read any error of the model server."""
    immediate = ProcessingResponse.FromString(wire.REFUSED).immediate_response
    assert int(immediate.status.code) == 503
    assert sorted(json.loads(immediate.body)["error"]) == ["code", "message", "param", "type"]
    assert immediate.grpc_status.status == 14
