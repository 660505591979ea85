"""Envoy's messages, made by hand, and what a reply is."""

from __future__ import annotations

from typing import Any

from extproc._proto.ext_proc_pb2 import ProcessingRequest, ProcessingResponse

STREAMED = {"request_body_mode": 1, "response_body_mode": 1}
DUPLEX = {"request_body_mode": 4, "response_body_mode": 4}


def head(
    direction: str, *, end: bool = False, first: dict[str, Any] | None = None, **headers: Any
) -> ProcessingRequest:
    """A headers message. `first`: the fields of protocol_config, for the first message of a stream."""
    message = ProcessingRequest()
    part = getattr(message, f"{direction}_headers")
    part.end_of_stream = end
    part.headers.SetInParent()
    for key, value in headers.items():
        header = part.headers.headers.add()
        header.key, header.raw_value = key.replace("__", ":").replace("_", "-"), value.encode()
    if first is not None:
        message.protocol_config.SetInParent()
        for name, value in first.items():
            setattr(message.protocol_config, name, value)
    return message


def body(direction: str, data: bytes = b"", *, end: bool = False) -> ProcessingRequest:
    """A body message."""
    message = ProcessingRequest()
    part = getattr(message, f"{direction}_body")
    part.body, part.end_of_stream = data, end
    return message


def trailers(direction: str) -> ProcessingRequest:
    """A trailers message."""
    message = ProcessingRequest()
    getattr(message, f"{direction}_trailers").trailers.SetInParent()
    return message


def kind(reply: bytes | None) -> str | None:
    """Which member of the oneof a reply is; None for no reply."""
    return ProcessingResponse.FromString(reply).WhichOneof("response") if reply else None
