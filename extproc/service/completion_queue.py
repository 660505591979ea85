"""The server on grpcio's completion queue, without asyncio: a third of grpc.aio's cost for a message.

One thread polls. The calls are those that grpc's own thread-pool server makes; they are private to grpcio, so
all of them are named in `_PRIVATE`, `missing_names` says what an installed grpcio lacks, and `server.py` then
takes `aio.py`.

**Ownership.** A stream has one owner at a time and no lock. It has exactly one batch outstanding: "receive
the first message", or "send the reply and receive the next message", which is one event for a message.
Starting a batch gives the stream away; whoever gets the batch's event owns it, which is the polling thread.
When a processor answers None, the stream belongs to whoever will call `send`, usually the journal's writer
thread right after its sync: it starts the next batch itself, with no hop back to the polling thread.

**No early close notice.** RECV_CLOSE_ON_SERVER at the start would be a second batch on each stream, could
tell of the end while another thread holds the stream, and costs an event. It goes with the status instead:
when a receive comes back without a message, whether half-closed, reset or lost, the last batch sends the
status and asks how it ended. During a gate nothing is outstanding; a client that leaves then is noticed by
the batch that opens the gate. A batch on a cancelled call is allowed: it completes, and sends nothing.

**Timers and signals.** `poll` gets a deadline at most RESOLUTION ahead: nothing wakes a completion queue from
outside, and nothing needs to. `stop` only sets a time, which the loop sees, so a signal handler may call it.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable
from time import monotonic, time
from typing import Any

from extproc.core.events import CloseReason
from extproc.errors import StackError
from extproc.service import health as health_
from extproc.service.health import Health
from extproc.service.transport import (
    ACCESS_LOG,
    HEALTH_CHECK,
    HEALTH_WATCH,
    LAST_WORDS,
    PROCESS,
    RESOLUTION,
    Complaints,
    Endpoint,
    NewProcessor,
    Processor,
    Timers,
    log,
)

_PRIVATE = (
    "CompletionQueue.poll",
    "CompletionType.queue_timeout",
    "Server.register_completion_queue",
    "Server.add_http2_port",
    "Server.start",
    "Server.request_call",
    "Server.shutdown",
    "Server.cancel_all_calls",
    "Server.destroy",
    "Call.start_server_batch",
    "Call.cancel",
    "CallDetails.method",
    "RequestCallEvent.call",
    "RequestCallEvent.call_details",
    "RequestCallEvent.invocation_metadata",
    "RequestCallEvent.success",
    "RequestCallEvent.tag",
    "BatchOperationEvent.batch_operations",
    "BatchOperationEvent.success",
    "BatchOperationEvent.tag",
    "BatchOperationEvent.completion_type",
    "ServerShutdownEvent.tag",
    "SendInitialMetadataOperation",
    "SendMessageOperation",
    "SendStatusFromServerOperation",
    "ReceiveMessageOperation.message",
    "ReceiveCloseOnServerOperation.cancelled",
    "StatusCode.ok",
    "StatusCode.internal",
    "StatusCode.not_found",
    "StatusCode.resource_exhausted",
    "StatusCode.unimplemented",
)
"""Every name of `grpc._cython.cygrpc` used here; `grpc.ServerCredentials._credentials` is one more."""

try:
    cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")
except ImportError:
    cygrpc = None

_SendInitialMetadata: Any = getattr(cygrpc, "SendInitialMetadataOperation", None)
_SendMessage: Any = getattr(cygrpc, "SendMessageOperation", None)
_SendStatus: Any = getattr(cygrpc, "SendStatusFromServerOperation", None)
_ReceiveMessage: Any = getattr(cygrpc, "ReceiveMessageOperation", None)
_ReceiveClose: Any = getattr(cygrpc, "ReceiveCloseOnServerOperation", None)

_ACCEPT_AHEAD = 64
"""Calls asked for in advance: a burst of new streams is handed out in one go."""


def missing_names() -> list[str]:
    """The names in `_PRIVATE` that the installed grpcio does not have; empty: this transport can be used."""
    return [f"grpc._cython.cygrpc.{name}" for name in _PRIVATE if not _has(cygrpc, name)]


def _has(module: Any, dotted: str) -> bool:
    for name in dotted.split("."):
        if not hasattr(module, name):
            return False
        module = getattr(module, name)
    return True


class Server:
    """The transport's interface as `transport.py` describes it."""

    def __init__(self, endpoint: Endpoint, processors: NewProcessor, timers: Timers, health: Health) -> None:
        self.processors = processors
        self.complaints = Complaints()
        self.open = 0  # streams and health calls
        self.cancelling = False
        self.lost: deque[_Stream] = deque()
        self.health = health
        self.watches: set[_Watch] = set()
        self.streams: set[_Stream] = set()
        self.access_log = timers.access_log
        self._endpoint = endpoint
        self._max_streams = endpoint.max_streams
        self._timers = timers
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(endpoint.options(), False)
        self._server.register_completion_queue(self._queue)
        self._on_call = self._accept
        self._due = 0.0
        self._stop_at: float | None = None
        self._hurry = False
        self._refusing = False
        self._shut_down = False
        self._was_quiet = False

    def start(self) -> str:
        address = self._endpoint.address.encode()
        try:
            credentials: Any = self._endpoint.credentials
            if credentials is None:
                port = self._server.add_http2_port(address)
            else:
                port = self._server.add_http2_port(address, credentials._credentials)  # noqa: SLF001
        except RuntimeError:
            port = 0
        if not port:
            raise StackError(f"cannot listen on {self._endpoint.address}: the address is in use or not ours")
        self._server.start()
        for _ in range(_ACCEPT_AHEAD):
            self._server.request_call(self._queue, self._queue, self._on_call)
        return self._endpoint.bound(port)

    def stop(self, grace: float) -> None:
        at = monotonic() + grace
        self._hurry = self._stop_at is not None
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)

    def run(self) -> None:
        self._turn_until(lambda: self._stop_at is not None)
        self.health.drain()
        self._tick()  # the Watch streams hear of it before the connection is told to go away
        self._refuse()
        self._turn_until(lambda: self._quiet() or monotonic() >= (self._stop_at or 0.0))
        self._timers.drain()
        self.cancelling = True
        for stream in tuple(self.streams):
            stream.cancel()
        give_up = monotonic() + LAST_WORDS
        self._turn_until(lambda: self._hurry or not self.streams or monotonic() >= give_up)
        self._turn_until(lambda: self._hurry or not self.access_log.outstanding())
        self._server.cancel_all_calls()
        give_up = monotonic() + LAST_WORDS
        self._turn_until(lambda: (self._shut_down and not self.open) or monotonic() >= give_up)
        if self.open:
            log.error("%d streams were still waiting for their gate at the end", self.open)
        self._server.destroy()

    def _turn_until(self, done: Callable[[], bool]) -> None:
        """Handle events; `done` is asked at each tick."""
        poll, timeout = self._queue.poll, cygrpc.CompletionType.queue_timeout
        self._tick()
        while not done():
            while monotonic() < self._due:
                event = poll(time() + RESOLUTION)
                if event.completion_type != timeout:
                    event.tag(event)
                # An event holds its call; kept over the next poll, it would keep a dead call alive.
                event = None
            self._tick()

    def _tick(self) -> None:
        self._timers.tick()
        while self.lost:
            log.error("grpcio did not take a reply; its stream was ended")
            self.lost.popleft().fail()
        if self.watches:
            status = self.health.status()
            for watch in tuple(self.watches):
                watch.tell(status)
        self._due = monotonic() + RESOLUTION

    def _quiet(self) -> bool:
        """Nothing was in flight for a whole tick, so the last replies have left. Idle streams may be open."""
        quiet, self._was_quiet = self._was_quiet, self._timers.in_flight == 0
        return quiet and self._was_quiet

    def _refuse(self) -> None:
        """No new connections, no new streams; those that run are left alone."""
        self._refusing = True
        self._server.shutdown(self._queue, self._on_shut_down)

    def _on_shut_down(self, _event: Any) -> None:
        self._shut_down = True

    def _accept(self, event: Any) -> None:
        if not self._refusing:
            self._server.request_call(self._queue, self._queue, self._on_call)
        if not event.success:  # the requests that were waiting when the server shut down
            return
        method = event.call_details.method
        if self.open >= self._max_streams:
            self.reject(event.call, cygrpc.StatusCode.resource_exhausted, b"too many streams")
        elif method == _PROCESS:
            _Stream(self, event)
        elif method == _ACCESS_LOG:
            _AccessLog(self, event.call)
        elif method == _HEALTH_CHECK:
            _Check(self, event.call)
        elif method == _HEALTH_WATCH:
            _Watch(self, event.call)
        else:
            self.reject(event.call, cygrpc.StatusCode.unimplemented, b"no such method")

    @staticmethod
    def reject(call: Any, code: Any, details: bytes) -> None:
        """Answer a call with a status alone."""
        operations = (_SendInitialMetadata(None, 0), _SendStatus(None, code, details, 0))
        call.start_server_batch(operations, _ignore)


_PROCESS, _ACCESS_LOG = PROCESS.encode(), ACCESS_LOG.encode()
_HEALTH_CHECK, _HEALTH_WATCH = HEALTH_CHECK.encode(), HEALTH_WATCH.encode()


def _ignore(_event: Any) -> None:
    """For batches whose end nobody waits for."""


class _Stream:
    """One ext_proc stream: one HTTP request and its response."""

    __slots__ = ("_on_message", "_opened", "_processor", "_receive", "_server", "_start")

    def __init__(self, server: Server, event: Any) -> None:
        self._server = server
        self._start = event.call.start_server_batch  # the batch holds the call
        self._on_message: Any = self._message
        self._opened = False
        self._processor: Processor | None = None
        try:
            processor = server.processors(event.invocation_metadata, self.send)
        except Exception as error:  # noqa: BLE001 - one stream's failure never ends the loop
            server.complaints.failed("a stream was refused", error)
            server.reject(event.call, cygrpc.StatusCode.internal, b"internal error")
            self._on_message = None
            return
        self._processor = processor
        self._receive: Any = processor.receive
        server.open += 1
        server.streams.add(self)
        self._start((_ReceiveMessage(0),), self._on_message)

    def send(self, reply: bytes) -> None:
        """Send, and receive the next message. The calling thread owns the stream until here and not after.

        b"" sends nothing: in observability mode Envoy expects no replies. After the stream has ended this does
        nothing; on a stream that is being cancelled the batch completes and nothing is sent.
        """
        on_message = self._on_message
        if on_message is None:
            return
        if not reply:
            failed = self._start((_ReceiveMessage(0),), on_message)
        elif self._opened:
            failed = self._start((_SendMessage(reply, 0), _ReceiveMessage(0)), on_message)
        else:
            # With the first reply, so that it leaves in the same write.
            self._opened = True  # before the batch: after it the stream is not ours
            failed = self._start(
                (_SendInitialMetadata(None, 0), _SendMessage(reply, 0), _ReceiveMessage(0)), on_message
            )
            if failed:
                self._opened = False
        if failed:  # there is no batch, so the stream is still ours: let the polling thread end it
            self._server.lost.append(self)

    def _message(self, event: Any) -> None:
        message = event.batch_operations[-1].message()
        if message is None:
            self._over()
            return
        try:
            reply = self._receive(message)
        except Exception as error:  # noqa: BLE001 - one stream's failure never ends the loop
            self._server.complaints.failed("a stream was ended", error)
            self.fail()
            return
        if reply is not None:
            self.send(reply)
        # None: the stream belongs to whoever calls `send`, perhaps already.

    def _over(self) -> None:
        """No more messages: half-closed, reset, or lost."""
        self._on_message = None
        self._finish(cygrpc.StatusCode.ok, b"", self._closed)

    def _closed(self, event: Any) -> None:
        if not event.batch_operations[-1].cancelled():
            self._end(CloseReason.CLOSED)
        elif self._server.cancelling:
            self._end(CloseReason.DRAIN)
        else:
            self._end(CloseReason.CANCELLED)

    def cancel(self) -> None:
        """Cut the stream off. What is outstanding on it comes back empty, and the processor hears of it then."""
        self._start.__self__.cancel()

    def fail(self) -> None:
        """End with an error status, so that Envoy fails the request; a clean end would let it pass unrecorded."""
        self._on_message = None
        self._finish(cygrpc.StatusCode.internal, b"internal error", _ignore)
        self._end(CloseReason.CANCELLED)

    def _finish(self, code: Any, details: bytes, then: Callable[[Any], None]) -> None:
        status, close = _SendStatus(None, code, details, 0), _ReceiveClose(0)
        if self._opened:
            self._start((status, close), then)
        else:
            self._start((_SendInitialMetadata(None, 0), status, close), then)

    def _end(self, reason: CloseReason) -> None:
        """Tell the processor, and break the circles that would leave the stream to the garbage collector."""
        processor, self._processor = self._processor, None
        self._receive = None
        self._server.open -= 1
        self._server.streams.discard(self)
        if processor is None:
            return
        try:
            processor.closed(reason)
        except Exception as error:  # noqa: BLE001 - one stream's failure never ends the loop
            self._server.complaints.failed("the end of a stream was not recorded", error)


class _AccessLog:
    """One stream of Envoy's access log. It goes on for as long as the connection."""

    __slots__ = ("_call", "_server")

    def __init__(self, server: Server, call: Any) -> None:
        self._server = server
        self._call = call
        server.open += 1
        server.access_log.streams += 1
        call.start_server_batch((_ReceiveMessage(0),), self._on_message)

    def _on_message(self, event: Any) -> None:
        message = event.batch_operations[-1].message()
        if message is None:
            self._over()
            return
        try:
            self._server.access_log.receive(message)
        except Exception as error:  # noqa: BLE001 - what is odd in an entry never ends the loop
            self._server.complaints.failed("entries of the access log were lost", error)
        self._call.start_server_batch((_ReceiveMessage(0),), self._on_message)

    def _over(self) -> None:
        self._server.open -= 1
        self._server.access_log.streams -= 1
        operations = (
            _SendInitialMetadata(None, 0),
            _SendMessage(b"", 0),
            _SendStatus(None, cygrpc.StatusCode.ok, b"", 0),
        )
        self._call.start_server_batch(operations, _ignore)


class _Check:
    """One call of Health/Check."""

    __slots__ = ("_call", "_server")

    def __init__(self, server: Server, call: Any) -> None:
        self._server = server
        self._call = call
        server.open += 1
        call.start_server_batch((_ReceiveMessage(0),), self._request)

    def _request(self, event: Any) -> None:
        server = self._server
        server.open -= 1
        message = event.batch_operations[-1].message()
        if message is None:
            return
        if health_.service_of(message) is None:
            server.reject(self._call, cygrpc.StatusCode.not_found, b"unknown service")
            return
        operations = (
            _SendInitialMetadata(None, 0),
            _SendMessage(server.health.status(), 0),
            _SendStatus(None, cygrpc.StatusCode.ok, b"", 0),
        )
        self._call.start_server_batch(operations, _ignore)


class _Watch:
    """One call of Health/Watch: the status now and each change. One message is under way at a time."""

    __slots__ = ("_call", "_opened", "_sending", "_server", "_told")

    def __init__(self, server: Server, call: Any) -> None:
        self._server = server
        self._call = call
        self._told = b""
        self._opened = False
        self._sending = False
        server.open += 1
        call.start_server_batch((_ReceiveClose(0),), self._closed)
        call.start_server_batch((_ReceiveMessage(0),), self._request)

    def _request(self, event: Any) -> None:
        message = event.batch_operations[-1].message()
        if message is None:
            return
        if health_.service_of(message) is None:
            self.tell(health_.SERVICE_UNKNOWN)
        else:
            self._server.watches.add(self)
            self.tell(self._server.health.status())

    def tell(self, status: bytes) -> None:
        """Send the status if it is another than the last one sent."""
        if self._sending or status == self._told:
            return
        self._told, self._sending = status, True
        message = _SendMessage(status, 0)
        operations = (message,) if self._opened else (_SendInitialMetadata(None, 0), message)
        self._opened = True
        self._call.start_server_batch(operations, self._sent)

    def _sent(self, _event: Any) -> None:
        self._sending = False

    def _closed(self, _event: Any) -> None:
        self._server.open -= 1
        self._server.watches.discard(self)
