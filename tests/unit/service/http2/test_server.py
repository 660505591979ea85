"""The loop and its sockets: what only our own transport has to promise."""

from __future__ import annotations

import contextlib
import functools
import gc
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http2 import GREETING, Frame, Wire, data, headers, message, parse
from support.stack import eventually
from support.transports import SECONDS, Fake, Talk, connected, running

from extproc.core.events import CloseReason
from extproc.service import http2
from extproc.service.http2 import frames
from extproc.service.http2 import server as http2_server
from extproc.service.transport import Endpoint


class Clock:
    """What a server measures silence by: it stands still until it is set forward."""

    def __init__(self, fake: Fake) -> None:
        self.now = 1000.0
        self._ticks = fake.ticks

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        """Set it forward, and wait until the server has looked at its clients since."""
        while self._ticks.acquire(blocking=False):
            pass
        self.now += seconds
        for _ in range(2):
            assert self._ticks.acquire(timeout=SECONDS)


@contextlib.contextmanager
def watched(tmp_path: Path, fake: Fake) -> Iterator[tuple[Clock, socket.socket]]:
    """A server with such a clock, and a client that it has accepted."""
    clock = Clock(fake)
    endpoint = Endpoint(f"unix:{tmp_path}/sock")
    with (
        running(functools.partial(http2.Http2Server, clock=clock), fake, endpoint),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.settimeout(SECONDS)
        client.connect(f"{tmp_path}/sock")
        read(client, frames.SETTINGS)
        yield clock, client


def read(client: socket.socket, kind: int, flags: int = 0) -> Frame:
    """The first frame of a kind and with these flags; what comes before it is dropped."""
    heard = b""
    while True:
        piece = client.recv(1 << 16)
        assert piece, f"no frame of kind {kind}"
        heard += piece
        for each in parse(heard):
            if each.kind == kind and each.flags & flags == flags:
                return each


def is_closed(client: socket.socket) -> bool:
    """Wait for the end of a connection."""
    with contextlib.suppress(ConnectionResetError):
        while client.recv(1 << 16):
            pass
    return True


@pytest.mark.parametrize("words", [b"", frames.PREFACE[:10], frames.PREFACE])
def test_a_client_that_does_not_greet_is_hung_up_on(tmp_path: Path, words: bytes) -> None:
    """It is silent, or stops in the middle of what HTTP/2 begins with."""
    with watched(tmp_path, Fake()) as (clock, client):
        client.sendall(words)
        clock.forward(http2_server.HANDSHAKE_SECONDS)
        assert is_closed(client)


def test_a_connection_that_is_half_open_is_closed(tmp_path: Path) -> None:
    """The client's machine is gone: its PING has no answer, and its stream ends as a cancelled one."""
    fake = Fake()
    with watched(tmp_path, fake) as (clock, client):
        client.sendall(GREETING + headers() + data(1, message(b"one")))
        read(client, frames.DATA)
        ping = until_pinged(clock, client)
        assert not ping.flags & frames.ACK
        clock.forward(http2_server.ANSWER_SECONDS)
        assert is_closed(client)
        assert fake.next() == ("closed", CloseReason.CANCELLED)


def test_a_connection_that_is_idle_is_kept(tmp_path: Path) -> None:
    """As long as its PINGs are answered, however often; its stream goes on."""
    with watched(tmp_path, Fake()) as (clock, client):
        client.sendall(GREETING + headers() + data(1, message(b"one")))
        read(client, frames.DATA)
        for _ in range(5):
            ping = until_pinged(clock, client)
            client.sendall(frames.frame(frames.PING, frames.ACK, 0, ping.payload))
        client.sendall(data(1, message(b"two")))
        assert read(client, frames.DATA).payload == message(b"two")


def test_a_server_that_was_stopped_for_minutes_asks_first(tmp_path: Path) -> None:
    """All its clients were silent for longer than a PING may go unanswered, and none was asked."""
    with watched(tmp_path, Fake()) as (clock, client):
        client.sendall(GREETING + headers() + data(1, message(b"one")))
        read(client, frames.DATA)
        clock.forward(1.0)
        clock.forward(http2_server.QUIET_SECONDS + http2_server.ANSWER_SECONDS)
        assert not read(client, frames.PING).flags & frames.ACK
        client.sendall(data(1, message(b"two")))
        assert read(client, frames.DATA).payload == message(b"two")


def until_pinged(clock: Clock, client: socket.socket) -> Frame:
    """Be silent until the server asks for a sign of life."""
    client.sendall(frames.frame(frames.PING, 0, 0, b"have you"))
    read(client, frames.PING, frames.ACK)  # it has: whatever was sent before is taken
    clock.forward(1.0)
    clock.forward(http2_server.QUIET_SECONDS)
    return read(client, frames.PING)


def test_a_stream_leaves_nothing_to_the_garbage_collector() -> None:
    """Half-closed, reset or failed: its processor is gone as soon as it has heard of the end."""
    gc.collect()
    gc.disable()
    try:
        for end in (
            data(1, b"", end=True),
            frames.rst_stream(1, frames.Code.CANCEL),
            data(1, message(b"boom")),
        ):
            wire = Wire()
            wire.send(headers(), data(1, message(b"one")))
            processor = weakref.ref(wire.fake.processors.pop())
            wire.send(end)
            assert wire.fake.next()[0] == "closed"
            assert processor() is None
    finally:
        gc.enable()


def test_a_socket_file_goes_with_its_listener(tmp_path: Path) -> None:
    """But not another's, which has taken its place."""
    path = tmp_path / "sock"
    with running(http2.Http2Server, Fake(), Endpoint(f"unix:{path}")):
        assert path.is_socket()
    assert not path.exists()
    with running(http2.Http2Server, Fake(), Endpoint(f"unix:{path}")):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_client_that_reads_nothing_holds_up_nobody(tmp_path: Path) -> None:
    """Its socket is full, it is not read from, and it is served again when it reads."""
    fake = Fake()
    with (
        running(http2.Http2Server, fake, Endpoint(f"unix:{tmp_path}/sock")) as server,
        connected(server.address) as channel,
        socket.socket(socket.AF_UNIX) as deaf,
    ):
        deaf.settimeout(SECONDS)
        deaf.connect(f"{tmp_path}/sock")
        window = frames.settings({frames.INITIAL_WINDOW_SIZE: 2**30}) + frames.window_update(0, 2**30)
        deaf.sendall(GREETING + window + headers())
        deaf.setblocking(False)
        chunk = data(1, message(b"x" * 16_000))
        sent = 0
        try:
            while sent < 2000 * len(chunk):
                sent += deaf.send(chunk[sent % len(chunk) :])
        except BlockingIOError:
            pass
        assert sent < 2000 * len(chunk)
        talk = Talk(channel)
        assert talk.ask(b"one") == b"one"
        talk.half_close()
        assert fake.next() == ("closed", CloseReason.CLOSED)
        deaf.settimeout(SECONDS)
        heard = 0
        while heard < sent // 2:
            heard += len(deaf.recv(1 << 20))
    eventually(lambda: fake.next() == ("closed", CloseReason.CANCELLED), "the end of the deaf client's stream")
