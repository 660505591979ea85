"""A transport that runs in a thread, with a processor that does what its messages say; and clients of it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from extproc.core.events import CloseReason
from extproc.service.health import Health
from extproc.service.transport import PROCESS, Endpoint, Transport

SECONDS = 90.0
"""Longer than anything here takes: what does not come by then never comes."""

MakeServer = Callable[..., Transport]
Channel = Any  # grpc's stubs ask for serialisers, and these tests send bytes


class FakeAccessLog:
    """What takes the messages of Envoy's access log. One that says `odd` raises."""

    def __init__(self) -> None:
        self.streams = 0
        self.messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.expects_more = False

    def receive(self, message: bytes) -> None:
        """Called by the loop."""
        if message == b"odd":
            raise LookupError(message)
        self.messages.put(message)

    def outstanding(self) -> bool:
        """Called by the loop, at the end."""
        return self.expects_more


class Fake:
    """The recorder and the journal of a transport under test. Everything that happens is in `events`, in order."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.body = "what a prompt says"
        self.journal_writable = True
        self.events: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.gates: queue.SimpleQueue[Callable[[bytes], None]] = queue.SimpleQueue()
        self.ticks = threading.Semaphore(0)
        self.processors: list[FakeProcessor] = []
        self.access_log = FakeAccessLog()
        self.health = Health({"journal": lambda: self.journal_writable})

    def processor(self, metadata: Iterable[tuple[str, str | bytes]], send: Callable[[bytes], None]) -> FakeProcessor:
        """Make the processor of a stream; one that says `refuse` in its metadata gets an exception."""
        processor = FakeProcessor(self, dict(metadata), send)
        self.processors.append(processor)
        if "refuse" in processor.metadata:
            raise LookupError(self.body)
        return processor

    def tick(self) -> None:
        """Called by the loop."""
        self.ticks.release()

    def drain(self) -> None:
        """Called by the loop when the grace is over."""
        self.events.put(("drain",))

    def next(self) -> tuple[Any, ...]:
        """Wait for the next event."""
        return self.events.get(timeout=SECONDS)

    def gate(self) -> Callable[[bytes], None]:
        """Wait for a shut gate; what opens it."""
        return self.gates.get(timeout=SECONDS)


class FakeProcessor:
    """Echoes. `boom` raises, `quiet` has no reply, `gate` gets its reply from whoever takes `Fake.gate`."""

    def __init__(self, fake: Fake, metadata: dict[str, str | bytes], send: Callable[[bytes], None]) -> None:
        self.metadata = metadata
        self.closings: list[CloseReason] = []
        self._fake = fake
        self._send = send

    def receive(self, message: bytes) -> bytes | None:
        """Do as the message says."""
        match message:
            case b"boom":
                raise ValueError(self._fake.body)
            case b"quiet":
                return b""
            case b"gate":
                self._fake.gates.put(self._send)
                return None
            case b"note":
                self._fake.events.put(("note",))
        return message

    def closed(self, reason: CloseReason) -> None:
        """Note the reason; streams with `fail-end` in their metadata raise after it."""
        self.closings.append(reason)
        self._fake.events.put(("closed", reason))
        if "fail-end" in self.metadata:
            raise ValueError(self._fake.body)


class Running:
    """A server in a thread. `address` is as it was bound."""

    def __init__(self, server: Transport) -> None:
        self.server = server
        self.address = self.server.start()
        self.thread = threading.Thread(target=self.server.run, name="transport")
        self.thread.start()

    def join(self) -> None:
        """Wait until `run` has returned."""
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the transport did not stop"


@contextlib.contextmanager
def running(make: MakeServer, fake: Fake, endpoint: Endpoint) -> Iterator[Running]:
    """Run a server, and stop it at the end whatever happens."""
    server = Running(make(endpoint, fake.processor, fake, fake.health))
    try:
        yield server
    finally:
        server.server.stop(0.0)
        server.join()


@contextlib.contextmanager
def connected(address: str, credentials: grpc.ChannelCredentials | None = None) -> Iterator[Channel]:
    """A channel with a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    if credentials is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
        yield channel


class Talk:
    """One ext_proc stream from the client's side, a message at a time."""

    def __init__(self, channel: Channel, metadata: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.call: Any = channel.stream_stream(PROCESS)(
            iter(self._messages.get, None), metadata=metadata, timeout=SECONDS
        )

    def say(self, message: bytes) -> None:
        """Send a message."""
        self._messages.put(message)

    def hear(self) -> bytes:
        """Wait for a reply."""
        reply: bytes = next(self.call)
        return reply

    def ask(self, message: bytes) -> bytes:
        """Send a message and wait for its reply."""
        self.say(message)
        return self.hear()

    def half_close(self) -> None:
        """Say that no more messages follow."""
        self._messages.put(None)

    def cancel(self) -> None:
        """Reset the stream."""
        self.call.cancel()
        self._messages.put(None)

    def status(self) -> grpc.StatusCode:
        """Read to the end of the stream; how it ended."""
        with contextlib.suppress(grpc.RpcError):
            for _ in self.call:
                pass
        self._messages.put(None)
        code: grpc.StatusCode = self.call.code()
        return code


def status_of(call: Callable[[], Any]) -> grpc.StatusCode:
    """The status of a unary call."""
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK
