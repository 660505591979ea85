"""One connection: frames to streams, streams to frames. Bytes come in by `receive`, cut anywhere, and go out of `out`.

No sockets, no clocks. What the client does wrong on a stream ends the stream with RST_STREAM; what it does wrong on the
connection ends that with GOAWAY: `closing` is true then, what comes is ignored, and what is in `out` is the last.

Floods: a frame that carries nothing (PING, SETTINGS, PRIORITY, CONTINUATION, DATA without data, what is unknown or
comes too late, a stream that is reset before it has said anything) is counted, and more than MAX_IDLE_FRAMES between
two calls of `calm`, which the server makes each second, end the connection with ENHANCE_YOUR_CALM. Resets of streams
that carried messages are not counted: all of Envoy's clients share the connection, and any of them may leave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, Protocol

from extproc.service.http2 import fields as fields_
from extproc.service.http2 import frames
from extproc.service.http2.fields import Fields, Known, Request
from extproc.service.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEAD_BYTES,
    HEADERS,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    Code,
    frame,
    goaway,
    read_head,
    rst_stream,
    window_update,
)
from extproc.service.http2.states import TABLE, Fault, Input, State
from extproc.service.http2.stream import STREAM_WINDOW, Stream

CONNECTION_WINDOW: Final = 16 * 1024 * 1024
"""Bytes that a client may send on all streams before the loop has seen them."""
MAX_IDLE_FRAMES: Final = 10_000
REMEMBERED: Final = 512
"""Streams of which it is known how they ended."""

_OPEN = State.OPEN
_DRAINING: Final = b"draining"
"""The payload of the PING whose acknowledgement says that the client has read our first GOAWAY."""


class Host(Protocol):
    """What is above the connections."""

    max_streams: int
    """On one connection; on all of them together is `begin`'s to say."""

    known: Known
    table_bytes: int
    """Of the dynamic table that clients may use, at most 4096."""

    def begin(self, connection: Connection, stream_id: int, request: Request) -> Stream:
        """The method of a new stream; it is told of what comes, beginning with the first message."""
        ...


class ConnectionFault(Exception):
    """The connection cannot go on."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class Connection:
    """A client's connection. `touched` says that there is something in `out`; whoever sends it resets `is_dirty`."""

    def __init__(self, host: Host) -> None:
        self.out: list[bytes] = []
        self.streams: dict[int, Stream] = {}
        self.blocked: dict[Stream, None] = {}
        """Streams whose replies wait for the client's window, in the order of their turns."""
        self.window = DEFAULT_WINDOW
        """What the client takes of our DATA, on all streams together."""
        self.frame_size = DEFAULT_FRAME_SIZE
        self.room = min(self.window, self.frame_size)
        """What fits into a frame now, by the connection's window."""
        self.initial_window = DEFAULT_WINDOW
        self.greeted = False
        """The client has sent its preface and its SETTINGS."""
        self.closing = False
        self.is_dirty = False
        self._host = host
        self._fields = Fields(host.known, host.table_bytes)
        self._rest = b""
        self._preface = PREFACE
        self._received = 0
        self._idle_frames = 0
        self._last_id = 0
        self._ended: dict[int, State] = {}
        self._refuse_above = MAX_STREAM_ID
        self._draining = False
        self._block: list[bytes] | None = None
        self._block_id = 0
        self._block_flags = 0
        self._block_bytes = 0
        self.write(
            frames.settings(
                {
                    frames.HEADER_TABLE_SIZE: host.table_bytes,
                    frames.MAX_CONCURRENT_STREAMS: host.max_streams,
                    frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    frames.MAX_HEADER_LIST_SIZE: fields_.MAX_LIST,
                }
            )
            + window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
        )

    # -- for the host --

    def receive(self, data: bytes) -> None:
        """Take what the client has sent, cut anywhere."""
        if self.closing:
            return
        try:
            self._frames(self._rest + data if self._rest else data)
        except ConnectionFault as fault:
            self.close(fault.code, fault.why)

    def drain(self) -> None:
        """No new streams; those that run are left alone. In two steps, so that none is lost that is on its way."""
        if not (self._draining or self.closing):
            self._draining = True
            self.write(goaway(MAX_STREAM_ID, Code.NO_ERROR) + frame(PING, 0, 0, _DRAINING))

    def close(self, code: Code = Code.NO_ERROR, why: str = "") -> None:
        """Say so, and end everything."""
        if not self.closing:
            self.closing = True
            self.write(goaway(self._last_id, code, why))
            self._lose_streams()

    def lost(self) -> None:
        """The client is gone."""
        self.closing = True
        self._lose_streams()

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.write(frame(PING, 0, 0, b"any news"))

    def calm(self) -> None:
        """Called each second: what was counted is forgiven."""
        self._idle_frames = 0

    def touched(self) -> None:
        """There is something to send."""

    # -- for streams --

    def write(self, data: bytes) -> None:
        """Send it with what else this turn of the loop has for the client."""
        self.out.append(data)
        if not self.is_dirty:
            self.is_dirty = True
            self.touched()

    def stream_error(self, stream: Stream, code: Code) -> None:
        """End a stream for what the client did on it."""
        stream.abort(code)
        stream.gone()

    def closed(self, stream: Stream) -> None:
        """A stream has reached its end."""
        self.streams.pop(stream.id, None)
        ended = self._ended
        ended[stream.id] = stream.state
        if len(ended) > REMEMBERED:
            del ended[next(iter(ended))]

    def pump(self) -> None:
        """Send of the backlogs what the client has room for, a frame of each stream in turn."""
        moved = True
        while moved and self.room > 0:
            moved = False
            for stream in tuple(self.blocked):
                if stream.pump():
                    moved = True
                if not stream.backlog:
                    stream.pumped()

    # -- frames --

    def _frames(self, data: bytes) -> None:
        at, size = 0, len(data)
        if self._preface:
            at = self._greet(data)
        streams = self.streams
        while size - at >= HEAD_BYTES:
            upper, lower, kind, flags, stream_id = read_head(data, at)
            length = upper << 8 | lower
            if length > DEFAULT_FRAME_SIZE:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame is longer than SETTINGS_MAX_FRAME_SIZE")
            begin = at + HEAD_BYTES
            end = begin + length
            if end > size:
                break
            at = end
            stream = streams.get(stream_id) if kind == DATA else None
            if stream is not None and length and not flags & PADDED and stream.state is _OPEN and self._block is None:
                # The usual frame, as `_on_data` would take it.
                self._received += length
                if flags & END_STREAM:
                    stream.state = State.HALF_CLOSED
                    stream.data(data[begin:end])
                    if not stream.over:
                        stream.end()
                else:
                    stream.data(data[begin:end])
            else:
                self._frame(kind, flags, stream_id & MAX_STREAM_ID, data[begin:end])
            if self.closing:
                return
        self._rest = data[at:]
        if self._received > CONNECTION_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        if self._received > CONNECTION_WINDOW // 2:
            self.write(window_update(0, self._received))
            self._received = 0

    def _greet(self, data: bytes) -> int:
        """Take the preface, or as much of it as there is; where the rest begins."""
        seen = min(len(data), len(self._preface))
        if data[:seen] != self._preface[:seen]:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "no HTTP/2 preface")
        self._preface = self._preface[seen:]
        return seen

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self.greeted:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self.greeted = True
        if self._block is not None and (kind != CONTINUATION or stream_id != self._block_id):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block is interrupted")
        take = self._TAKE.get(kind)
        if take is None:
            self._count_idle()
        else:
            take(self, flags, stream_id, payload)

    def _count_idle(self) -> None:
        self._idle_frames += 1
        if self._idle_frames > MAX_IDLE_FRAMES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def _move(self, stream_id: int, input: Input) -> Stream | None:
        """Ask the table. The stream, moved; None: there is none that it could concern, or it has just been ended."""
        stream = self.streams.get(stream_id)
        state = self._state(stream_id) if stream is None else stream.state
        next_ = TABLE[state][input]
        if isinstance(next_, State):
            if stream is not None:
                stream.state = next_
            elif state is not State.FORGOTTEN:
                self._ended[stream_id] = next_
            return stream
        if next_.ends_connection:
            raise ConnectionFault(next_.code, f"{input.name} in state {state.name}")
        self._stream_fault(stream, stream_id, next_)
        return None

    def _stream_fault(self, stream: Stream | None, stream_id: int, fault: Fault) -> None:
        if stream is not None:
            self.stream_error(stream, fault.code)
        else:
            self._count_idle()
            self.write(rst_stream(stream_id, fault.code))

    def _state(self, stream_id: int) -> State:
        """Of a stream that is not open."""
        if stream_id > self._last_id or not stream_id & 1:  # we open none
            return State.IDLE
        return self._ended.get(stream_id, State.FORGOTTEN)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        _of_stream(stream_id)
        self._received += len(payload)
        content = _without_padding(payload) if flags & PADDED else payload
        ends = flags & END_STREAM
        stream = self._move(stream_id, Input.DATA_END if ends else Input.DATA)
        if stream is None or not (content or ends):
            self._count_idle()
        if stream is None or not stream.charge(len(payload) - len(content)):
            return
        if content:
            stream.data(content)
        if ends and not stream.over:
            stream.end()

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        _of_stream(stream_id)
        fragment = _without_padding(payload) if flags & PADDED else payload
        if flags & HAS_PRIORITY:
            if len(fragment) < 5:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS are too short for their priority")
            if _depends_on(fragment) == stream_id:
                flags |= _SELF_DEPENDENT
            fragment = fragment[5:]
        if flags & END_HEADERS:
            self._headers(flags, stream_id, fragment)
        else:
            self._block, self._block_id, self._block_flags = [fragment], stream_id, flags
            self._block_bytes = len(fragment)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._count_idle()
        block.append(payload)
        self._block_bytes += len(payload)
        if self._block_bytes > fields_.MAX_BLOCK:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & END_HEADERS:
            self._block = None
            self._headers(self._block_flags, stream_id, b"".join(block))

    def _headers(self, flags: int, stream_id: int, block: bytes) -> None:
        """A whole header block: a request, or trailers."""
        if not stream_id & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a client's stream has an even number")
        try:
            if stream_id > self._last_id:
                self._begin(flags, stream_id, block)
            else:
                self._trail(flags, stream_id, block)
        except fields_.NotDecodableError:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a header block cannot be decoded") from None
        except fields_.FloodError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header list is too long") from None

    def _begin(self, flags: int, stream_id: int, block: bytes) -> None:
        self._last_id = stream_id
        ends = bool(flags & END_STREAM)
        try:
            request = self._fields.request(block)
        except fields_.MalformedError:
            self._turn_away(stream_id, Code.PROTOCOL_ERROR, ends=ends)
            return
        except fields_.TooLargeError:
            self._turn_away(stream_id, Code.ENHANCE_YOUR_CALM, ends=ends)
            return
        if flags & _SELF_DEPENDENT:
            self._turn_away(stream_id, Code.PROTOCOL_ERROR, ends=ends)
            return
        if stream_id > self._refuse_above or len(self.streams) >= self._host.max_streams:
            self._turn_away(stream_id, Code.REFUSED_STREAM, ends=ends)
            return
        stream = self._host.begin(self, stream_id, request)
        self.streams[stream_id] = stream
        stream.state = State.HALF_CLOSED if ends else _OPEN
        stream.announce(request.content_length)
        stream.begin()
        if ends and not stream.over:
            stream.end()

    def _turn_away(self, stream_id: int, code: Code, *, ends: bool) -> None:
        self._count_idle()
        self._ended[stream_id] = State.ENDED if ends else State.LEFT
        self.write(rst_stream(stream_id, code))

    def _trail(self, flags: int, stream_id: int, block: bytes) -> None:
        """A second block on a stream: trailers, or what comes too late."""
        try:
            self._fields.trailers(block)
            malformed = bool(flags & _SELF_DEPENDENT)
        except fields_.MalformedError:
            malformed = True
        stream = self.streams.get(stream_id)
        if malformed and stream is not None and stream.state is _OPEN:
            self.stream_error(stream, Code.PROTOCOL_ERROR)
            return
        moved = self._move(stream_id, Input.HEADERS_END if flags & END_STREAM else Input.HEADERS)
        if moved is not None:
            moved.end()

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Its scheme is deprecated, and nothing is made of it."""
        _of_stream(stream_id)
        self._count_idle()
        stream = self.streams.get(stream_id)
        if len(payload) != 5:
            code = Code.FRAME_SIZE_ERROR
        elif _depends_on(payload) == stream_id:
            code = Code.PROTOCOL_ERROR
        else:
            return
        if stream is not None:
            self.stream_error(stream, code)
        elif self._state(stream_id) is State.IDLE:  # RST_STREAM may not be sent on an idle stream
            raise ConnectionFault(code, "PRIORITY on an idle stream")
        else:
            self.write(rst_stream(stream_id, code))

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _of_stream(stream_id)
        _of_size(payload, 4)
        stream = self._move(stream_id, Input.RST_STREAM)
        if stream is None:
            self._count_idle()
            return
        if not stream.spoke:
            self._count_idle()
        self.closed(stream)
        stream.lost()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _of_connection(stream_id)
        self._count_idle()
        if flags & ACK:
            _of_size(payload, 0)
            self._fields.settings_acknowledged()
            return
        if len(payload) % 6:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS are cut")
        for name, value in frames.read_setting(payload):
            self._set(name, value)
        self.write(SETTINGS_ACK)
        self.pump()

    def _set(self, name: int, value: int) -> None:
        if name == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
        if name == frames.MAX_FRAME_SIZE:
            if not DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range")
            self.frame_size = value
            self.room = min(self.window, value)
        if name == frames.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is out of range")
            more, self.initial_window = value - self.initial_window, value
            for stream in self.streams.values():
                stream.window += more
                if stream.window > MAX_WINDOW:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window is too large")

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a client cannot push")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _of_connection(stream_id)
        _of_size(payload, 8)
        self._count_idle()
        if not flags & ACK:
            self.write(frame(PING, ACK, 0, payload))
        elif self._draining and payload == _DRAINING:
            self._refuse_above = self._last_id
            self.write(goaway(self._last_id, Code.NO_ERROR))

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """The client opens no more streams; it closes the connection when it has no more use for it."""
        _of_connection(stream_id)
        self._count_idle()
        if len(payload) < 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "GOAWAY is cut")

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _of_size(payload, 4)
        more = int.from_bytes(payload, "big") & MAX_WINDOW
        if stream_id == 0:
            if not more:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self.window += more
            if self.window > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "the connection's window is too large")
            self.room = min(self.window, self.frame_size)
            self.pump()
        else:
            stream = self._move(stream_id, Input.WINDOW_UPDATE)
            if stream is None:
                self._count_idle()
                return
            stream.window += more
            if not more:
                self.stream_error(stream, Code.PROTOCOL_ERROR)
            elif stream.window > MAX_WINDOW:
                self.stream_error(stream, Code.FLOW_CONTROL_ERROR)
            elif stream.backlog:
                while stream.pump():
                    pass
                if not stream.backlog:
                    stream.pumped()

    def _lose_streams(self) -> None:
        for stream in tuple(self.streams.values()):
            if stream.id in self.streams:
                stream.state = State.RESET
                del self.streams[stream.id]
                stream.lost()
        self.streams.clear()
        self.blocked.clear()

    _TAKE: ClassVar[dict[int, Callable[[Connection, int, int, bytes], None]]] = {
        DATA: _on_data,
        HEADERS: _on_headers,
        PRIORITY: _on_priority,
        RST_STREAM: _on_rst_stream,
        SETTINGS: _on_settings,
        PUSH_PROMISE: _on_push_promise,
        PING: _on_ping,
        GOAWAY: _on_goaway,
        WINDOW_UPDATE: _on_window_update,
        CONTINUATION: _on_continuation,
    }


_SELF_DEPENDENT: Final = 0x100
"""Beside the flags of HEADERS: their priority names their own stream."""


def _of_stream(stream_id: int) -> None:
    if stream_id == 0:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a stream's frame on stream 0")


def _of_connection(stream_id: int) -> None:
    if stream_id != 0:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "the connection's frame on a stream")


def _of_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame of another size than its kind has")


def _without_padding(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _depends_on(payload: bytes) -> int:
    return int.from_bytes(payload[:4], "big") & MAX_STREAM_ID
