"""The gRPC methods that a worker serves, each as a stream.

A `Process` stream belongs to the loop's thread but for one call: `reply`, which a gate makes from any thread, and which
the loop takes up in its next turn. While a gate is shut, or a reply waits for the client's window, the stream is
`held`: messages that come wait in order, and so does the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from extproc.core.events import CloseReason
from extproc.service import health as health_
from extproc.service.http2.connection import Connection
from extproc.service.http2.fields import Metadata, Request
from extproc.service.http2.stream import Status, Stream
from extproc.service.transport import (
    ACCESS_LOG,
    HEALTH_CHECK,
    HEALTH_WATCH,
    LATER,
    NO_REPLY,
    PROCESS,
    AccessLog,
    Complaints,
    NewProcessor,
    Processor,
    Reply,
)


class Worker(Protocol):
    """What the methods need of the server that they run in."""

    open: int
    max_streams: int
    streams: set[Process]
    watches: set[Watch]
    processors: NewProcessor
    access_log: AccessLog
    health: health_.Health
    complaints: Complaints

    @property
    def cancelling(self) -> bool: ...

    def post(self, stream: Process, reply: bytes) -> None:
        """Open a gate, from any thread."""
        ...


def call(server: Worker, connection: Connection, stream_id: int, request: Request) -> Stream:
    """The stream of a request."""
    if request.refusal:
        return _NoGrpc(connection, stream_id, request.refusal)
    method = _METHODS.get(request.path)
    if method is None:
        return _Refused(connection, stream_id, Status.UNIMPLEMENTED, "no such method")
    if server.open >= server.max_streams:
        return _Refused(connection, stream_id, Status.RESOURCE_EXHAUSTED, "too many streams")
    return method(server, connection, stream_id, request)


class Process(Stream):
    """One ext_proc stream: one HTTP request and its response."""

    __slots__ = ("_gate", "_half_closed", "_metadata", "_processor", "_queue", "_reason", "_receive", "_server")

    def __init__(self, server: Worker, connection: Connection, stream_id: int, request: Request) -> None:
        super().__init__(connection, stream_id, compressed=request.compressed)
        self._server = server
        self._metadata: Metadata = request.metadata
        self._processor: Processor | None = None
        self._receive: Callable[[bytes], Reply] = _nobody
        self._gate = False
        """A reply is owed by whoever was given `reply`."""
        self._queue: deque[bytes] = deque()
        self._half_closed = False
        self._reason: CloseReason | None = None
        """The stream is over, which the processor hears of when the gate has opened."""

    def begin(self) -> None:
        server = self._server
        try:
            self._processor = server.processors(self._metadata, self.reply)
        except Exception as error:  # noqa: BLE001 - one stream's failure never ends the loop
            server.complaints.failed("a stream was refused", error)
            self.finish(Status.INTERNAL, "internal error")
            return
        self._receive = self._processor.receive
        server.open += 1
        server.streams.add(self)

    def message(self, data: bytes) -> None:
        if self.held:
            self._queue.append(data)
            return
        try:
            reply = self._receive(data)
        except Exception as error:  # noqa: BLE001 - as above
            self._server.complaints.failed("a stream was ended", error)
            # An error status, so that Envoy fails the request; a clean end would let it pass unrecorded.
            self.refuse(Status.INTERNAL, "internal error")
            return
        if reply is LATER:
            self._gate = self.held = True
        elif reply:
            self.send(reply)
            if self.backlog:
                self.held = True

    def reply(self, reply: bytes) -> None:
        """Open the gate: from any thread. b"" sends nothing: in observability mode Envoy expects no replies."""
        self._server.post(self, reply)

    def opened(self, reply: bytes) -> None:
        """The gate has opened; the loop's turn to send."""
        self._gate = False
        if self._reason is not None:
            self._tell(self._reason)
            return
        if reply:
            self.send(reply)
        if not self.backlog:
            self.drained()

    def drained(self) -> None:
        self.release()
        queue = self._queue
        while queue and not self.held:
            self.message(queue.popleft())
        if self._half_closed and not (self.held or self.over):
            self._complete()

    def half_closed(self) -> None:
        if self.held:
            self._half_closed = True
        else:
            self._complete()

    def _complete(self) -> None:
        self.finish()
        self._tell(CloseReason.CLOSED)

    def cancel(self) -> None:
        """The end of the server: Envoy gets an error."""
        if not self.over:
            self.refuse(Status.UNAVAILABLE, "the server ends")

    def gone(self) -> None:
        reason = CloseReason.DRAIN if self._server.cancelling else CloseReason.CANCELLED
        if self._gate:
            self._reason = reason
            self._queue.clear()
        else:
            self._tell(reason)

    def _tell(self, reason: CloseReason) -> None:
        """Tell the processor, and break the circle that would leave the stream to the garbage collector."""
        processor, self._processor = self._processor, None
        self._receive = _nobody
        self._queue.clear()
        if processor is None:
            return
        self._server.open -= 1
        self._server.streams.discard(self)
        try:
            processor.closed(reason)
        except Exception as error:  # noqa: BLE001 - as above
            self._server.complaints.failed("the end of a stream was not recorded", error)


def _nobody(_message: bytes) -> Reply:
    """In the place of a processor that has heard of its end."""
    return NO_REPLY


class _Counted(Stream):
    """A call that counts as an open stream from its beginning to its end."""

    __slots__ = ("_counted", "server")

    def __init__(self, server: Worker, connection: Connection, stream_id: int, request: Request) -> None:
        super().__init__(connection, stream_id, compressed=request.compressed)
        self.server = server
        self._counted = False

    def begin(self) -> None:
        self._counted = True
        self.server.open += 1

    def gone(self) -> None:
        if self._counted:
            self._counted = False
            self.server.open -= 1
            self.uncounted()

    def uncounted(self) -> None:
        """It is over, however it ended."""


class _AccessLog(_Counted):
    """One stream of Envoy's access log. It goes on for as long as the connection."""

    __slots__ = ()

    def begin(self) -> None:
        super().begin()
        self.server.access_log.streams += 1

    def message(self, data: bytes) -> None:
        try:
            self.server.access_log.receive(data)
        except Exception as error:  # noqa: BLE001 - what is odd in an entry never ends the stream
            self.server.complaints.failed("entries of the access log were lost", error)

    def half_closed(self) -> None:
        self.send(b"")
        self.finish()
        self.gone()

    def uncounted(self) -> None:
        self.server.access_log.streams -= 1


class _Check(_Counted):
    """One call of Health/Check."""

    __slots__ = ()

    def message(self, data: bytes) -> None:
        if health_.service_of(data) is None:
            self.finish(Status.NOT_FOUND, "unknown service")
        else:
            self.send(self.server.health.status())
            self.finish()
        self.gone()

    def half_closed(self) -> None:
        if self._counted:  # not when the answer waits for the client's window
            self.refuse(Status.INTERNAL, "no request")


class Watch(_Counted):
    """One call of Health/Watch: the status now and each change."""

    __slots__ = ("_told",)

    def begin(self) -> None:
        super().begin()
        self._told = b""

    def message(self, data: bytes) -> None:
        if health_.service_of(data) is None:
            self.send_status(health_.SERVICE_UNKNOWN)
        else:
            self.server.watches.add(self)
            self.send_status(self.server.health.status())

    def send_status(self, status: bytes) -> None:
        """Send the status if it is another than the last one sent, and that has left."""
        if status != self._told and not self.backlog:
            self._told = status
            self.send(status)

    def uncounted(self) -> None:
        self.server.watches.discard(self)


_Method = Callable[[Worker, Connection, int, Request], Stream]

_METHODS: Final[dict[str, _Method]] = {
    PROCESS: Process,
    ACCESS_LOG: _AccessLog,
    HEALTH_CHECK: _Check,
    HEALTH_WATCH: Watch,
}


class _Refused(Stream):
    """A call that is answered with a status alone."""

    __slots__ = ("_details", "_status")

    def __init__(self, connection: Connection, stream_id: int, status: Status, details: str) -> None:
        super().__init__(connection, stream_id)
        self._status = status
        self._details = details

    def begin(self) -> None:
        self.finish(self._status, self._details)


class _NoGrpc(Stream):
    """A request that is no gRPC gets an HTTP status, when it has ended."""

    __slots__ = ("_status",)

    def __init__(self, connection: Connection, stream_id: int, status: int) -> None:
        super().__init__(connection, stream_id)
        self._status = status

    def data(self, payload: bytes) -> None:
        if self._announced is not None:
            self._announced -= len(payload)
        self.charge(len(payload))

    def half_closed(self) -> None:
        self.respond(b"\x08\x03%d" % self._status, b"gRPC only\n")  # :status, touching no table
