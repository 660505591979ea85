"""The loop and its sockets: what only our own transport has to promise."""

from __future__ import annotations

import gc
import socket
import weakref
from pathlib import Path

from support.http2 import GREETING, Wire, data, headers, message
from support.stack import eventually
from support.transports import SECONDS, Fake, Talk, connected, running

from extproc.core.events import CloseReason
from extproc.service import http2
from extproc.service.http2 import frames
from extproc.service.transport import Endpoint


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
