"""A client of our HTTP/2 server that shows every frame, without a socket: bytes into a connection, frames out of it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import hpack
from support.transports import Fake

from extproc.service import http2
from extproc.service.http2 import frames
from extproc.service.http2.connection import Connection
from extproc.service.http2.frames import END_HEADERS, END_STREAM, Code, frame
from extproc.service.transport import PROCESS, Endpoint

GREETING = frames.PREFACE + frame(frames.SETTINGS, 0, 0)


@dataclass(frozen=True)
class Frame:
    """A frame that the server has sent."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> Code:
        """Of RST_STREAM and GOAWAY."""
        return Code(int.from_bytes(self.payload[-4:] if self.kind == frames.RST_STREAM else self.payload[4:8], "big"))


def parse(data: bytes) -> Iterator[Frame]:
    """Whole frames; anything that is none fails."""
    at = 0
    while at < len(data):
        upper, lower, kind, flags, stream_id = struct.unpack_from(">HBBBI", data, at)
        end = at + 9 + (upper << 8 | lower)
        assert end <= len(data)
        yield Frame(kind, flags, stream_id, data[at + 9 : end])
        at = end


def fields(*changes: tuple[str, str], path: str = PROCESS) -> list[tuple[str, str]]:
    """The header list of a gRPC request, with other fields after it."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *changes,
    ]


def block(headers: Iterable[tuple[str, str]]) -> bytes:
    """A header block that touches no table."""
    out = b""
    for name, value in headers:
        out += b"\0" + _string(name.encode()) + _string(value.encode())
    return out


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    rest, more = length - 127, b""
    while rest >= 128:
        more, rest = more + bytes([rest & 127 | 128]), rest >> 7
    return b"\x7f" + more + bytes([rest]) + text


def message(data: bytes, flag: int = 0) -> bytes:
    """A gRPC message as it stands in DATA."""
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


def headers(stream_id: int = 1, *changes: tuple[str, str], path: str = PROCESS, end: bool = False) -> bytes:
    """HEADERS that open a call."""
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(frames.HEADERS, flags, stream_id, block(fields(*changes, path=path)))


def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    """DATA."""
    return frame(frames.DATA, END_STREAM if end else 0, stream_id, payload)


class Wire:
    """A server that does not listen, and one connection to it. `fake` is what stands above the transport."""

    def __init__(self, *, max_streams: int = 100, greet: bool = True) -> None:
        self.fake = Fake()
        self.server = http2.Http2Server(
            Endpoint("unix:nowhere", max_streams=max_streams), self.fake.processor, self.fake, self.fake.health
        )
        self.connection = Connection(self.server)
        self.decoder = hpack.Decoder()
        if greet:
            self.send(GREETING)

    def send(self, *parts: bytes) -> list[Frame]:
        """Give the connection these bytes; what it has to say to them."""
        for part in parts:
            self.connection.receive(part)
        return self.said()

    def said(self) -> list[Frame]:
        """What the connection has to say, after what other threads have posted."""
        self.server.take_posted()
        said = b"".join(self.connection.out)
        self.connection.out.clear()
        self.connection.is_dirty = False
        return list(parse(said))

    def messages(self, said: Iterable[Frame], stream_id: int = 1) -> list[bytes]:
        """The gRPC messages in a stream's DATA."""
        content = b"".join(each.payload for each in said if each.kind == frames.DATA and each.stream_id == stream_id)
        found = []
        while content:
            length = int.from_bytes(content[1:5], "big")
            found.append(content[5 : 5 + length])
            content = content[5 + length :]
        return found

    def trailers(self, said: Iterable[Frame], stream_id: int = 1) -> dict[str, str]:
        """The fields of the HEADERS that end a stream; empty: it has not ended."""
        for each in said:
            if each.kind == frames.HEADERS and each.stream_id == stream_id and each.flags & END_STREAM:
                decoded: Any = self.decoder.decode(each.payload)
                return dict(decoded)
        return {}


def resets(said: Iterable[Frame]) -> dict[int, Code]:
    """Why streams were reset, but for the resets that only follow a response."""
    return {
        each.stream_id: each.code for each in said if each.kind == frames.RST_STREAM and each.code is not Code.NO_ERROR
    }


def goaway(said: Iterable[Frame]) -> Code | None:
    """Why the connection ends; None: it does not."""
    return next((each.code for each in said if each.kind == frames.GOAWAY), None)
