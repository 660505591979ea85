"""Envoy's messages as the core's events, and the replies that Envoy expects.

`read` turns one serialised ProcessingRequest into a `Message`; it parses, and decides nothing. The usual ones it reads
from their bytes (`usual.py`), the others, and those that are wrong, as protobuf does. The replies that are the same for
every stream are serialised once, here.

What is a legal reply depends on the body mode. In STREAMED, BUFFERED and BUFFERED_PARTIAL each message gets one
reply of its own kind, and an empty one means "go on". In FULL_DUPLEX_STREAMED Envoy keeps no copy, so a chunk has
to be sent back to it. In observability mode Envoy ignores replies, so there are none.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping

import msgspec
from google.protobuf.message import DecodeError

from extproc._proto.ext_proc_pb2 import (
    HeaderMap,
    HeaderMutation,
    ImmediateResponse,
    ProcessingMode,
    ProcessingRequest,
    ProcessingResponse,
)
from extproc.core import routing
from extproc.core.events import Body, Direction, Event, HeaderList, Headers, Trailers
from extproc.core.outcome import QUARANTINED_DETAILS, REFUSED_DETAILS
from extproc.service import usual
from extproc.service.transport import NO_REPLY

FILTER = "envoy.filters.http.ext_proc"
"""The key under which Envoy puts the attributes, and the namespace of nothing else."""

NAMESPACE = "extproc"
"""The namespace of the dynamic metadata that carries the exchange's id to Envoy's access log."""


AUDIT_ID = "x-audit-id"
"""The header by which a client hears the exchange's id. Envoy sets it, or we do (`set_audit_id`)."""


class Kind(enum.IntEnum):
    """What a message is, by the field number of its reply in ProcessingResponse."""

    REQUEST_HEADERS = 1
    RESPONSE_HEADERS = 2
    REQUEST_BODY = 3
    RESPONSE_BODY = 4
    REQUEST_TRAILERS = 5
    RESPONSE_TRAILERS = 6


class BodyMode(enum.IntEnum):
    """Envoy's ProcessingMode.BodySendMode."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4
    GRPC = 5


class Modes(msgspec.Struct, frozen=True):
    """What the first message says of the stream. Without `protocol_config` the shipped configuration holds."""

    request: int = BodyMode.STREAMED
    response: int = BodyMode.STREAMED
    may_hold: bool = False
    """Envoy says how it is set, and a `mode_override` can have an effect."""
    observability: bool = False


SHIPPED = Modes()


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message: its kind, the event in it, and the modes, on the first message only."""

    kind: Kind
    event: Event
    modes: Modes | None


# Looked up once: a member of an enum costs more on its class than a call does (Python 3.11).
_REQUEST = Direction.REQUEST
_REQUEST_BODY, _RESPONSE_BODY = Kind.REQUEST_BODY, Kind.RESPONSE_BODY

_KINDS = {
    "request_headers": (Kind.REQUEST_HEADERS, Direction.REQUEST),
    "response_headers": (Kind.RESPONSE_HEADERS, Direction.RESPONSE),
    "request_body": (Kind.REQUEST_BODY, Direction.REQUEST),
    "response_body": (Kind.RESPONSE_BODY, Direction.RESPONSE),
    "request_trailers": (Kind.REQUEST_TRAILERS, Direction.REQUEST),
    "response_trailers": (Kind.RESPONSE_TRAILERS, Direction.RESPONSE),
}
_NUMBERS = frozenset({"response.flags", "response.code"})
_ONE_MESSAGE = frozenset({BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL})
_parse = ProcessingRequest.FromString


def read(data: bytes, modes: Modes | None, at: int) -> Message | None:
    """Read one message that arrived at `at`, on a stream with these modes (None: it is the first).

    Returns None for a message of a kind that this sidecar does not know. Raises google.protobuf's DecodeError
    for bytes that are no ProcessingRequest.
    """
    tag = data[0] if data else 0
    if (with_body := _BODIES.get(tag)) is not None:
        return _read_body(data, *with_body, modes, at) or parse(data, modes, at)
    if (with_headers := _HEADERS.get(tag)) is not None:
        return _read_headers(data, *with_headers, modes, at) or parse(data, modes, at)
    return parse(data, modes, at)


def parse(data: bytes, modes: Modes | None, at: int) -> Message | None:
    """As `read`, for any message: what protobuf makes of it."""
    request = _parse(data)
    which = request.WhichOneof("request")
    if which is None:
        return None
    kind, direction = _KINDS[which]
    first = _modes(request) if modes is None else None
    part = getattr(request, which)
    if kind is Kind.RESPONSE_BODY or kind is Kind.REQUEST_BODY:
        end = part.end_of_stream or part.end_of_stream_without_message
        return Message(kind, _body(direction, part.body, end, modes or first or SHIPPED, at), first)
    if kind is Kind.REQUEST_HEADERS or kind is Kind.RESPONSE_HEADERS:
        event = _headers(direction, _header_list(part.headers), part.end_of_stream, at, _attributes(request))
        return Message(kind, event, first)
    return Message(kind, Trailers(direction, _header_list(part.trailers), at), first)


# -- the usual messages ---------------------------------------------------------------------------------------------

_BODIES = {0x22: (Kind.REQUEST_BODY, Direction.REQUEST), 0x2A: (Kind.RESPONSE_BODY, Direction.RESPONSE)}
_HEADERS = {0x12: (Kind.REQUEST_HEADERS, Direction.REQUEST), 0x1A: (Kind.RESPONSE_HEADERS, Direction.RESPONSE)}
"""By the tag of the message in a ProcessingRequest."""


class _About(msgspec.Struct, frozen=True):
    """What stands behind the message itself in a ProcessingRequest."""

    modes: Modes
    attributes: Mapping[str, str | int] | None = None


_KEPT = 1024
_KEPT_BYTES = 1024
_KEPT_ATTRIBUTES = frozenset(
    {
        "source.address",
        "upstream.address",
        "xds.route_name",
        "xds.cluster_name",
        "response.flags",
        "response.code",
        "response.code_details",
    }
)
"""Envoy's own words. Others, as `request.path`, may hold a credential, and are read anew each time."""
_known: dict[bytes, _About] = {b"": _About(Modes())}


def _read_body(data: bytes, kind: Kind, direction: Direction, modes: Modes | None, at: int) -> Message | None:
    """None: it has not the usual form, and says nothing of what it is."""
    body = usual.body(data)
    if body is None:
        return None
    content, ends, rest = body
    if modes is not None and rest in _NOTHING:
        return Message(kind, _body(direction, content, ends, modes, at), None)
    about = _known.get(rest) or _about(rest)
    if about is None:
        return None
    first = about.modes if modes is None else None
    return Message(kind, _body(direction, content, ends, modes or about.modes, at), first)


def _read_headers(data: bytes, kind: Kind, direction: Direction, modes: Modes | None, at: int) -> Message | None:
    """As `_read_body`."""
    head = usual.headers(data)
    if head is None:
        return None
    headers, ends, rest = head
    about = _known.get(rest) or _about(rest)
    if about is None:
        return None
    event = _headers(direction, headers, ends, at, about.attributes)
    return Message(kind, event, about.modes if modes is None else None)


_NOTHING = frozenset({b"", b"\x42\x00"})
"""No metadata, or, as Envoy says it, empty metadata."""


def _about(rest: bytes) -> _About | None:
    """Read what is behind a message; None where there is another message in it, or something is wrong."""
    try:
        request = _parse(rest)
    except DecodeError:
        return None
    if request.WhichOneof("request") is not None:
        return None
    about = _About(_modes(request), _attributes(request))
    if (
        len(rest) <= _KEPT_BYTES
        and not request.metadata_context.ByteSize()
        and request.attributes.keys() <= {FILTER}
        and (about.attributes or {}).keys() <= _KEPT_ATTRIBUTES
    ):
        if len(_known) >= _KEPT:
            _known.clear()
        _known[rest] = about
    return about


# -- the parts of a message -----------------------------------------------------------------------------------------


def _modes(request: ProcessingRequest) -> Modes:
    if not request.HasField("protocol_config"):
        return Modes(observability=request.observability_mode)
    config = request.protocol_config
    request_mode, response_mode = int(config.request_body_mode), int(config.response_body_mode)
    # Envoy ignores an override in any other case.
    may_hold = (
        request_mode == BodyMode.STREAMED
        and response_mode != BodyMode.FULL_DUPLEX_STREAMED
        and not config.send_body_without_waiting_for_header_response
    )
    return Modes(request_mode, response_mode, may_hold, request.observability_mode)


def _body(direction: Direction, content: bytes, end: bool, modes: Modes, at: int) -> Body:
    mode = modes.request if direction is _REQUEST else modes.response
    if mode in _ONE_MESSAGE:
        return Body(direction, content, end, at, True, mode == BodyMode.BUFFERED_PARTIAL and not end)
    return Body(direction, content, end, at)


def _headers(
    direction: Direction, headers: HeaderList, end: bool, at: int, attributes: Mapping[str, str | int] | None
) -> Headers:
    if attributes is None:
        return Headers(direction, headers, end, at)
    return Headers(direction, headers, end, at, attributes)


def _attributes(request: ProcessingRequest) -> Mapping[str, str | int] | None:
    if FILTER not in request.attributes:
        return None
    return {
        name: int(value.number_value) if name in _NUMBERS else value.string_value
        for name, value in request.attributes[FILTER].fields.items()
    }


def _header_list(header_map: HeaderMap) -> HeaderList:
    # Envoy fills raw_value, or, with an old runtime setting, value (envoyproxy/envoy#31555).
    return [(header.key, header.raw_value or header.value.encode()) for header in header_map.headers]


# -- replies ------------------------------------------------------------------------------------------------------

_NEUTRAL = {kind: bytes((kind << 3 | 2, 0)) for kind in Kind}
_FULL_DUPLEX = BodyMode.FULL_DUPLEX_STREAMED


def neutral(message: Message, modes: Modes, *, late: bool = False) -> bytes:
    """The reply that lets a message pass unchanged. `late`: its direction was over before it came."""
    if modes.observability:
        return NO_REPLY
    kind, event = message.kind, message.event
    if kind is _RESPONSE_BODY:
        duplex = modes.response == _FULL_DUPLEX
    else:
        duplex = kind is _REQUEST_BODY and modes.request == _FULL_DUPLEX
    if not duplex:
        return _NEUTRAL[kind]
    # A late chunk sent back would reach the peer twice, and is one reply more than Envoy allows for.
    return NO_REPLY if late else _echo(kind, event)


def _echo(kind: Kind, event: Event) -> bytes:
    assert isinstance(event, Body)
    response = ProcessingResponse()
    reply = response.request_body if kind is Kind.REQUEST_BODY else response.response_body
    streamed = reply.response.body_mutation.streamed_response
    streamed.body = event.data
    streamed.end_of_stream = event.end_of_stream
    return response.SerializeToString()


_PLACEHOLDER = "-" * 36


def _request_headers_reply(*, hold: bool) -> tuple[bytes, bytes]:
    response = ProcessingResponse()
    response.request_headers.SetInParent()
    if hold:
        # Every mode is named: an enum left out of an override is 0, which is NONE for bodies.
        response.mode_override.request_header_mode = ProcessingMode.SEND
        response.mode_override.response_header_mode = ProcessingMode.SEND
        response.mode_override.request_body_mode = ProcessingMode.BUFFERED
        response.mode_override.response_body_mode = ProcessingMode.STREAMED
        response.mode_override.request_trailer_mode = ProcessingMode.SEND
        response.mode_override.response_trailer_mode = ProcessingMode.SEND
    return _around_the_id(response)


def _response_headers_reply() -> tuple[bytes, bytes]:
    response = ProcessingResponse()
    response.response_headers.SetInParent()
    return _around_the_id(response)


def _naming_reply() -> tuple[bytes, bytes]:
    response = ProcessingResponse()
    _set_header(response.response_headers.response.header_mutation, AUDIT_ID, _PLACEHOLDER)
    before, _, after = response.SerializeToString(deterministic=True).partition(_PLACEHOLDER.encode())
    return before, after


def _around_the_id(response: ProcessingResponse) -> tuple[bytes, bytes]:
    """What stands before and after the id in a reply that gives it to Envoy."""
    response.dynamic_metadata.update({NAMESPACE: {"id": _PLACEHOLDER}})
    before, _, after = response.SerializeToString(deterministic=True).partition(_PLACEHOLDER.encode())
    return before, after


def accepted(exchange_id: str, *, hold: bool) -> bytes:
    """The reply to request headers: gives Envoy the exchange's id; `hold` keeps the request back until its body is
    answered. The id has 36 characters, as every UUID has, so that the reply needs no serialising.
    """
    before, after = _HOLD if hold else _GO_ON
    return before + exchange_id.encode() + after


def answered(exchange_id: str) -> bytes:
    """The reply to response headers of which no request was seen: a filter before us has answered."""
    before, after = _ANSWERED
    return before + exchange_id.encode() + after


def named(exchange_id: str) -> bytes:
    """The reply to response headers that has Envoy tell the client the exchange's id. With `answered` behind it, it is
    a reply that does both, as all messages of protobuf can be joined."""
    before, after = _NAMED
    return before + exchange_id.encode() + after


def with_id(immediate: bytes, exchange_id: str) -> bytes:
    """An answer of our own that tells the client the exchange's id."""
    response = ProcessingResponse.FromString(immediate)
    _set_header(response.immediate_response.headers, AUDIT_ID, exchange_id)
    return response.SerializeToString()


def with_client_key(reply: bytes, key: str | None) -> bytes:
    """A reply to request headers that also sets `x-client-key`, or takes away what a client sent as one."""
    response = ProcessingResponse.FromString(reply)
    mutation = response.request_headers.response.header_mutation
    if key is None:
        mutation.remove_headers.append(routing.CLIENT)
    else:
        _set_header(mutation, routing.CLIENT, key)
    return response.SerializeToString()


def routed(headers: Mapping[str, str]) -> bytes:
    """The reply to a held body that sets these headers, and lets Envoy choose the route once more."""
    response = ProcessingResponse()
    common = response.request_body.response
    for name, value in headers.items():
        _set_header(common.header_mutation, name, value)
    common.clear_route_cache = True
    return response.SerializeToString()


def _set_header(mutation: HeaderMutation, name: str, value: str) -> None:
    option = mutation.set_headers.add()
    option.header.key = name
    option.header.raw_value = value.encode()
    option.append_action = option.OVERWRITE_IF_EXISTS_OR_ADD


_ANSWERED = _response_headers_reply()
_NAMED = _naming_reply()
_GO_ON = _request_headers_reply(hold=False)
_HOLD = _request_headers_reply(hold=True)

QUARANTINE = "x-quarantine"
"""The header of a request that a route may send to a cluster of its own; its value is the entry's id."""


def quarantined(incident: str) -> bytes:
    """The answer to a request that is kept from the backends. `incident`: what it is kept from them for."""
    error = {
        "message": f"The request was refused: requests like it may have caused incident {incident}. "
        "It has not reached the model.",
        "type": "invalid_request_error",
        "param": None,
        "code": "quarantined",
        "incident": incident,
    }
    response = ProcessingResponse()
    immediate: ImmediateResponse = response.immediate_response
    immediate.status.code = 422  # type: ignore[assignment]
    immediate.body = json.dumps({"error": error}).encode()
    immediate.details = QUARANTINED_DETAILS
    _set_header(immediate.headers, "content-type", "application/json")
    immediate.grpc_status.status = 9  # FAILED_PRECONDITION, for a gRPC client
    return response.SerializeToString()


def _refusal(retry_after_seconds: int) -> bytes:
    error = {
        "message": "The request was refused because it could not be recorded. It has not reached the model.",
        "type": "service_unavailable_error",
        "param": None,
        "code": "audit_unavailable",
    }
    response = ProcessingResponse()
    immediate: ImmediateResponse = response.immediate_response
    immediate.status.code = 503  # type: ignore[assignment]
    immediate.body = json.dumps({"error": error}).encode()
    immediate.details = REFUSED_DETAILS
    for name, value in (("content-type", "application/json"), ("retry-after", str(retry_after_seconds))):
        _set_header(immediate.headers, name, value)
    immediate.grpc_status.status = 14  # UNAVAILABLE, for a gRPC client
    return response.SerializeToString()


REFUSED = _refusal(retry_after_seconds=1)
"""The answer to a request that could not be recorded, with `on_audit_failure: deny`."""
