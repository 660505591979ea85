"""The same server on grpc.aio: with TLS, and for `transport: aio`. It costs many times as much as `http2`.

uvloop is used where it is installed (`extproc[aio]`).

What grpc.aio makes necessary:

- `Process` is a coroutine that reads and writes its context. grpc never closes a generator, whose `finally` can
  then run in another task.
- A reset looks like a half-close at first: `read` gives EOF. A second `read` goes through the core's queue, behind
  the news of the reset, and raises CancelledError.
- CancelledError is raised on: returning normally after it leaks native memory for each stream (grpc#43360).
- Nothing is awaited in `finally`; the processor hears of the end by a plain call. When a gate is still shut
  then, the stream belongs to whoever will open it, and the processor hears of the end after that.

`send` may come from any thread; it hands the reply to the loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it

from extproc.core.events import CloseReason
from extproc.errors import StackError
from extproc.service.health import SERVICE_UNKNOWN, Health, service_of
from extproc.service.shutdown import Shutdown
from extproc.service.transport import (
    ACCESS_LOG,
    HEALTH_CHECK,
    HEALTH_WATCH,
    LATER,
    PROCESS,
    RESOLUTION,
    Complaints,
    Endpoint,
    NewProcessor,
    Processor,
    Timers,
    log,
)

_LONG = 1e6
"""Seconds. The end of the grace is ours to say, by a second `stop`; the first one only refuses new streams."""

_Context = grpc.aio.ServicerContext[bytes, bytes]


class AioServer:
    """The transport's interface as `transport.py` describes it."""

    def __init__(self, endpoint: Endpoint, processors: NewProcessor, timers: Timers, health: Health) -> None:
        self.loop = _new_loop()
        self.complaints = Complaints()
        self.open = 0
        self._endpoint = endpoint
        self._processors = processors
        self._timers = timers
        self._health = health
        self._server: grpc.aio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping: list[asyncio.Future[None]] = []
        self._shutdown = Shutdown(self, timers, health, last_words=endpoint.last_words)

    def start(self) -> str:
        return self.loop.run_until_complete(self._start())

    def run(self) -> None:
        try:
            self.loop.run_until_complete(self._run())
        finally:
            self.loop.close()

    def stop(self, grace: float) -> None:
        self._shutdown.stop(grace)

    @property
    def running(self) -> int:
        return len(self._tasks)

    def refuse(self) -> None:
        self._stop_serving(_LONG)

    def cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()

    def end(self) -> None:
        self._stop_serving(None)

    def _stop_serving(self, grace: float | None) -> None:
        assert self._server is not None
        self._stopping.append(asyncio.ensure_future(self._server.stop(grace)))

    async def _start(self) -> str:
        endpoint = self._endpoint
        self._server = grpc.aio.server(
            options=_options(endpoint), maximum_concurrent_rpcs=endpoint.max_streams, handlers=[self._handlers()]
        )
        try:
            if endpoint.credentials is None:
                port = self._server.add_insecure_port(endpoint.address)
            else:
                port = self._server.add_secure_port(endpoint.address, endpoint.credentials)
        except RuntimeError:
            raise StackError(f"cannot listen on {endpoint.address}: the address is in use or not ours") from None
        await self._server.start()
        return endpoint.bound(port)

    def _handlers(self) -> _Handlers:
        return _Handlers(
            {
                PROCESS: grpc.stream_stream_rpc_method_handler(self._process),
                ACCESS_LOG: grpc.stream_unary_rpc_method_handler(self._take_access_log),
                HEALTH_CHECK: grpc.unary_unary_rpc_method_handler(self._check),
                HEALTH_WATCH: grpc.unary_stream_rpc_method_handler(self._watch),
            }
        )

    async def _run(self) -> None:
        for _ in self._shutdown.steps():
            await asyncio.sleep(RESOLUTION)
            self._timers.tick()
        await asyncio.gather(*self._stopping)
        self._server = None

    async def _process(self, _requests: Any, context: _Context) -> None:
        stream = _Stream(self)
        try:
            processor = self._processors(_metadata(context), stream.send)
        except Exception as error:  # noqa: BLE001 - one stream's failure never ends the loop
            self.complaints.failed("a stream was refused", error)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        stream.begin(processor)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        reason = CloseReason.CANCELLED
        try:
            while True:
                message = await context.read()
                if message is EOF:
                    await context.read()  # EOF again after a half-close; after a reset it raises
                    reason = CloseReason.CLOSED
                    return
                try:
                    reply = processor.receive(message)
                except Exception as error:  # noqa: BLE001 - as above
                    self.complaints.failed("a stream was ended", error)
                    break
                if reply is LATER:
                    reply = await stream.gate()
                if reply:
                    await context.write(reply)
            # An error status, so that Envoy fails the request; a clean end would let it pass unrecorded.
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            if reason is CloseReason.CANCELLED and self._shutdown.cancelling:
                reason = CloseReason.DRAIN
            self._tasks.discard(task)
            stream.end(reason)

    async def _take_access_log(self, messages: Any, _context: _Context) -> bytes:
        access_log = self._timers.access_log
        self.open += 1
        access_log.streams += 1
        try:
            async for message in messages:
                try:
                    access_log.receive(message)
                except Exception as error:  # noqa: BLE001 - what is odd in an entry never ends the stream
                    self.complaints.failed("entries of the access log were lost", error)
        finally:
            self.open -= 1
            access_log.streams -= 1
        return b""

    async def _check(self, request: bytes, context: _Context) -> bytes:
        if service_of(request) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return self._health.status()

    async def _watch(self, request: bytes, context: _Context) -> None:
        if service_of(request) is None:
            await context.write(SERVICE_UNKNOWN)
            await asyncio.Event().wait()  # by the protocol the call stays open
        told = b""
        while True:
            status = self._health.status()
            if status != told:
                told = status
                await context.write(status)
            await asyncio.sleep(RESOLUTION)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """The three methods by their full names; everything else is UNIMPLEMENTED."""

    def __init__(self, methods: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._methods.get(handler_call_details.method)


class _Stream:
    """The gate of one stream, and its end."""

    __slots__ = ("_gate", "_loop", "_processor", "_reason", "_server")

    def __init__(self, server: AioServer) -> None:
        self._server = server
        self._loop = server.loop
        self._processor: Processor | None = None
        self._gate: asyncio.Future[bytes] | None = None
        self._reason: CloseReason | None = None

    def begin(self, processor: Processor) -> None:
        self._processor = processor
        self._gate = self._loop.create_future()
        self._server.open += 1

    def send(self, reply: bytes) -> None:
        """Open the gate, from any thread. Does nothing when the loop is gone."""
        try:
            self._loop.call_soon_threadsafe(self._open, reply)
        except RuntimeError:
            log.error("a gate opened after the server had stopped")

    async def gate(self) -> bytes:
        """The reply that `send` brings. The future is made before the processor is asked, so none is missed."""
        gate = self._gate
        assert gate is not None
        reply = await gate
        self._gate = self._loop.create_future()
        return reply

    def _open(self, reply: bytes) -> None:
        gate = self._gate
        if gate is not None and not gate.done():
            gate.set_result(reply)
        elif self._reason is not None:
            self._closed(self._reason)

    def end(self, reason: CloseReason) -> None:
        """The stream is over; when a gate is shut, the processor hears of it after it has opened."""
        gate = self._gate
        if gate is not None and gate.cancelled():
            self._reason = reason
        else:
            self._closed(reason)

    def _closed(self, reason: CloseReason) -> None:
        processor, self._processor = self._processor, None
        self._gate = None
        if processor is None:
            return
        self._server.open -= 1
        try:
            processor.closed(reason)
        except Exception as error:  # noqa: BLE001 - one stream's failure never ends the loop
            self._server.complaints.failed("the end of a stream was not recorded", error)


def _options(endpoint: Endpoint) -> tuple[tuple[str, int], ...]:
    """Settings of the gRPC core."""
    return (
        (
            "grpc.max_receive_message_length",
            -1,
        ),  # Envoy bounds bodies; a 4 MiB limit here cuts requests off
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", endpoint.max_streams),
        ("grpc.max_allowed_incoming_connections", endpoint.max_connections),
        # Calls that arrive faster than they are accepted; above the default of 1000 the core refuses at
        # random.
        ("grpc.server.max_pending_requests", endpoint.max_streams),
        ("grpc.server.max_pending_requests_hard_limit", endpoint.max_streams),
        ("grpc.server_handshake_timeout_ms", 10_000),  # a connection that says nothing is closed
        ("grpc.max_metadata_size", 64 * 1024),
        ("grpc.absolute_max_metadata_size", 128 * 1024),
        # Envoy may ping as often as it likes, also without streams; the default answers with GOAWAY.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
        # A peer that is gone without a word (a stopped VM) is noticed within 80 s.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.so_reuseport", 0),  # a second sidecar on the port must fail, not share it
        # Envoy never compresses ext_proc, so that a compressed message can only be a bomb.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.per_message_decompression", 0),
        ("grpc.per_message_compression", 0),
        ("grpc.enable_channelz", 0),
        ("grpc.enable_retries", 0),
    )


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - it may be missing
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _metadata(context: _Context) -> list[tuple[str, str | bytes]]:
    return [(name, value) for name, value in context.invocation_metadata() or ()]
