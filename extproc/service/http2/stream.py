"""One stream: gRPC messages out of its DATA, replies into it, flow control both ways.

Window for received bytes is given back as messages are taken. While the stream is `held` it is not, so that a client
that goes on sending is stopped after STREAM_WINDOW bytes, and costs no more memory than that. A reply that does not
fit into the client's windows waits in `backlog`, and goes on with the connection's `pump`.

A subclass is a gRPC method: it gets `message`, `half_closed` and `gone`, of which `gone` is the last, and `drained`
when the backlog is out.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final, Protocol
from urllib.parse import quote

from extproc.service.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    Code,
    frame,
    pack_head,
    pack_message_head,
    rst_stream,
    window_update,
)
from extproc.service.http2.states import TABLE, Input, State

STREAM_WINDOW: Final = 256 * 1024
"""Bytes that a client may send on a stream before any of them is taken."""

_PREFIX: Final = 5
"""A message's flag and its length."""

_OPEN = State.OPEN


class Status(enum.IntEnum):
    """The gRPC codes that we end calls with."""

    OK = 0
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


def _literal(name: bytes, value: bytes) -> bytes:
    """A field that touches no table and is not compressed."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


# :status 200 is the eighth entry of the static table.
RESPONSE: Final = b"\x88" + _literal(b"content-type", b"application/grpc")


def trailers(status: Status, details: str = "") -> bytes:
    """The header block that ends a call. `details` is ours, and short."""
    block = _literal(b"grpc-status", b"%d" % status)
    if details:
        block += _literal(b"grpc-message", quote(details, safe=" ").encode())
    if status is Status.UNIMPLEMENTED:
        block += _literal(b"grpc-accept-encoding", b"identity")
    return block


_OK_TRAILERS: Final = trailers(Status.OK)


class Link(Protocol):
    """What a stream needs of its connection."""

    window: int
    room: int
    frame_size: int
    initial_window: int
    blocked: dict[Stream, None]

    def write(self, data: bytes) -> None: ...

    def stream_error(self, stream: Stream, code: Code) -> None: ...

    def closed(self, stream: Stream) -> None: ...


class Stream:
    """A stream that is open. Made by the connection's host; all calls come from the thread of the loop."""

    __slots__ = (
        "_announced",
        "_buffer",
        "_compressed",
        "_ending",
        "_received",
        "_responded",
        "backlog",
        "connection",
        "held",
        "id",
        "over",
        "state",
        "window",
    )

    def __init__(self, connection: Link, stream_id: int, *, compressed: bool = False) -> None:
        self.connection = connection
        self.id = stream_id
        self.state = State.IDLE
        self.over = False
        """It has ended, in whatever way: nothing of it may be sent or taken."""
        self.window = connection.initial_window
        """What the client takes of our DATA."""
        self.held = False
        """No messages are taken just now: no more window is given."""
        self.backlog: deque[memoryview] = deque()
        self._received = 0
        self._buffer: bytearray | None = None
        self._responded = False
        self._ending: bytes | None = None
        self._announced: int | None = None
        self._compressed = compressed

    # -- for methods to implement --

    def begin(self) -> None:
        """The stream is open."""

    def message(self, data: bytes) -> None:
        """A message of the client's."""

    def half_closed(self) -> None:
        """The client sends no more. Nothing is left over from its last message."""

    def gone(self) -> None:
        """The stream is over, and not because the method has finished it."""

    def drained(self) -> None:
        """What waited for the client's window has been sent."""

    # -- what comes --

    def announce(self, content_length: int | None) -> None:
        """The request says how many bytes of DATA it has."""
        self._announced = content_length

    @property
    def spoke(self) -> bool:
        """Whether there was any DATA."""
        return self._received > 0 or self._responded or self._buffer is not None

    def charge(self, size: int) -> bool:
        """Count received bytes, and give window back. False: there was no window for them, and the stream has ended."""
        self._received += size
        return self._received <= STREAM_WINDOW // 2 or self._give_back()

    def data(self, payload: bytes) -> None:
        """The content of a DATA frame; the state has been moved."""
        self._received += len(payload)
        if self._received > STREAM_WINDOW // 2 and not self._give_back():
            return
        if self._announced is not None:
            self._announced -= len(payload)
        if self._buffer is None:
            # Nearly always a frame is a message. A flag, or a length that is another, is looked at below.
            if payload[:1] == b"\0" and len(payload) == int.from_bytes(payload[1:_PREFIX], "big") + _PREFIX:
                self.message(payload[_PREFIX:])
                return
            self._buffer = bytearray()
        self._buffer += payload
        self._take_messages(self._buffer)

    def _give_back(self) -> bool:
        if self._received > STREAM_WINDOW:
            self.connection.stream_error(self, Code.FLOW_CONTROL_ERROR)
            return False
        if not self.held and self.state is _OPEN:
            self.connection.write(window_update(self.id, self._received))
            self._received = 0
        return True

    def _take_messages(self, buffer: bytearray) -> None:
        while len(buffer) >= _PREFIX and not self.over:
            if buffer[0]:
                self._refuse_compressed(buffer[0])
                return
            end = _PREFIX + int.from_bytes(buffer[1:_PREFIX], "big")
            if len(buffer) < end:
                return
            with memoryview(buffer) as view:
                message = bytes(view[_PREFIX:end])
            del buffer[:end]
            self.message(message)
        if not buffer:
            self._buffer = None

    def _refuse_compressed(self, flag: int) -> None:
        """Envoy sends none, so that it can only be a bomb; nothing is unpacked."""
        if flag == 1 and self._compressed:
            self.refuse(Status.UNIMPLEMENTED, "messages are not to be compressed")
        else:
            self.refuse(Status.INTERNAL, "a compressed message without an encoding")

    def end(self) -> None:
        """The client's END_STREAM; the state has been moved."""
        if self._announced:
            self.connection.stream_error(self, Code.PROTOCOL_ERROR)
        elif self._buffer:
            self.refuse(Status.INTERNAL, "the last message is cut")
        else:
            self.half_closed()

    def release(self) -> None:
        """Messages are taken again."""
        self.held = False
        if self._received > STREAM_WINDOW // 2 and not self.over:
            self._give_back()

    # -- what goes --

    def send(self, message: bytes) -> None:
        """Send a message, now or when the client has room for it. Not on a stream that is over."""
        connection, size = self.connection, len(message)
        framed = size + _PREFIX
        if self.backlog or framed > self.window or framed > connection.room:
            self._put_off(size.to_bytes(_PREFIX, "big") + message)
            return
        self.window -= framed
        connection.window -= framed
        connection.room = min(connection.window, connection.frame_size)
        head = pack_message_head(framed >> 8, framed & 0xFF, DATA, 0, self.id, 0, size)
        if self._responded:
            connection.write(head + message)
        else:
            self._responded = True
            connection.write(self._response() + head + message)

    def finish(self, status: Status = Status.OK, details: str = "") -> None:
        """End the call, after what is in the backlog."""
        self._finish(_OK_TRAILERS if status is Status.OK else trailers(status, details))

    def cut(self, status: Status, details: str = "") -> None:
        """End the call at once."""
        self._forget()
        self._finish(trailers(status, details))

    def refuse(self, status: Status, details: str) -> None:
        """End the call for what the client has done."""
        self.cut(status, details)
        self.gone()

    def respond(self, block: bytes, body: bytes) -> None:
        """A plain HTTP response, in place of a gRPC one."""
        self._responded = True
        self.connection.write(frame(HEADERS, END_HEADERS, self.id, block))
        self._put_off(body)
        self._end(frame(DATA, END_STREAM, self.id))

    def abort(self, code: Code) -> None:
        """End the stream with RST_STREAM."""
        self._forget()
        self.connection.write(rst_stream(self.id, code))
        self._closed()

    def pump(self) -> bool:
        """Send one frame of the backlog. False: the client has no room for it, or there is nothing left."""
        if not self.backlog:
            return False
        connection, piece = self.connection, self.backlog[0]
        size = min(len(piece), self.window, connection.room)
        if size <= 0:
            return False
        head = b"" if self._responded else self._response()
        self._responded = True
        connection.write(head + frame(DATA, 0, self.id, bytes(piece[:size])))
        self.window -= size
        connection.window -= size
        connection.room = min(connection.window, connection.frame_size)
        if size < len(piece):
            self.backlog[0] = piece[size:]
        else:
            self.backlog.popleft()
        return True

    def pumped(self) -> None:
        """The backlog is out."""
        self.connection.blocked.pop(self, None)
        if self._ending is not None:
            self._end(self._ending)
        else:
            self.drained()

    def _put_off(self, framed: bytes) -> None:
        self.backlog.append(memoryview(framed))
        while self.pump():
            pass
        if self.backlog:
            self.connection.blocked[self] = None

    def _finish(self, block: bytes) -> None:
        last = frame(HEADERS, END_HEADERS | END_STREAM, self.id, block)
        self._end(last if self._responded or self.backlog else self._response() + last)

    def _end(self, last: bytes) -> None:
        """End our side with a frame, after what is in the backlog."""
        if self.backlog:
            self._ending = last
            return
        if self.state is _OPEN:  # so that the client stops sending
            last += rst_stream(self.id, Code.NO_ERROR)
        self.connection.write(last)
        self._closed()

    def _closed(self) -> None:
        state = TABLE[self.state][Input.FINISH]
        assert isinstance(state, State)
        self.state = state
        self.over = True
        self.connection.closed(self)

    def _forget(self) -> None:
        self.backlog.clear()
        self._buffer = self._ending = None
        self.connection.blocked.pop(self, None)

    def lost(self) -> None:
        """The client has reset it, or the connection has ended; the state has been moved."""
        self.over = True
        self._forget()
        self.gone()

    def _response(self) -> bytes:
        return pack_head(0, len(RESPONSE), HEADERS, END_HEADERS, self.id) + RESPONSE
