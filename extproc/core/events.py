"""What a stream can tell an exchange: four kinds of event, complete at construction.

`service/wire.py` makes them from Envoy's ProcessingRequest messages. Times are nanoseconds of a monotonic
clock, taken once where the message arrived; the core never asks for one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

HeaderList = list[tuple[str, bytes]]
"""Header names in lower case with their raw values, in the order of the wire, repeated names kept."""


class Direction(enum.StrEnum):
    """One of the two halves of an exchange."""

    REQUEST = "request"
    RESPONSE = "response"


class CloseReason(enum.StrEnum):
    """Why a stream is over, as far as the sidecar itself can tell. The words are those of `ended_by`."""

    CLOSED = "closed"
    """The gRPC stream ended: a clean end, a client's reset and a backend's reset look the same from here."""
    CANCELLED = "cancelled"
    """The gRPC stream was cancelled or its connection was lost."""
    DRAIN = "drain"
    """The sidecar is stopping and did not wait any longer."""


class Headers(msgspec.Struct, frozen=True, gc=False):
    """The headers of one direction. `end_of_stream`: no body and no trailers follow."""

    direction: Direction
    headers: HeaderList
    end_of_stream: bool
    at: int
    attributes: Mapping[str, str | int] = {}
    """Envoy's attributes by Envoy's names, such as `source.address` or `upstream.address`."""


class Body(msgspec.Struct, frozen=True, gc=False):
    """A piece of a body. `whole`: the message is the entire body (BUFFERED), with or without `end_of_stream`.

    `cut`: Envoy will not show the rest of the body (BUFFERED_PARTIAL over its limit).
    """

    direction: Direction
    data: bytes
    end_of_stream: bool
    at: int
    whole: bool = False
    cut: bool = False


class Trailers(msgspec.Struct, frozen=True, gc=False):
    """The trailers of one direction; they end it."""

    direction: Direction
    trailers: HeaderList
    at: int


Event = Headers | Body | Trailers
