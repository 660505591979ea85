"""However an exchange ends, it ends once, with what passed until then."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from support.exchanges import present
from support.raw import Closed, Connection, Head, RawBackend
from support.stack import RunningStack, eventually

from extproc.history import bodies

CHAT = "/v1/chat/completions?number="
PROMPT = b'{"model":"m","stream":true,"messages":[]}'
EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
FINISH = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def post(path: str, body: bytes = PROMPT) -> bytes:
    """A request."""
    return b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def test_the_backend_goes_in_mid_stream(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """A chunked answer without its end: the client's connection breaks, and the record says what had passed."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(STREAM + chunk(EVENT))
        assert has_it.wait(150)
        connection.reset()

    has_it = threading.Event()
    path = raw_backend.on(script, CHAT)
    with Connection.to(raw_stack.port) as client:
        client.send(post(path))
        client.read_head()
        assert client.read_chunk() == EVENT
        has_it.set()
        with pytest.raises(Closed):
            client.read_chunk()
    exchange = raw_stack.exchange_of(path)
    assert present(exchange.response).ended_by in ("closed", "cancelled")
    assert bodies.whole(exchange, "response") == EVENT
    assert present(exchange.llm).output_chars == len("word ")


def test_the_backend_goes_before_its_answer(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Envoy answers 503 in its place; the request is on disk, and it is told apart from an answer of the backend."""
    path = raw_backend.on(lambda connection, head: connection.reset(), CHAT)
    with Connection.to(raw_stack.port) as client:
        client.send(post(path))
        assert client.read_message().head.status == 503
    exchange = raw_stack.exchange_of(path)
    assert (exchange.status, exchange.outcome) == (503, "upstream_reset_before_headers")
    assert bodies.whole(exchange, "request") == PROMPT


def test_fewer_bytes_than_announced(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """The backend announces 100 bytes, sends 10, and closes."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789")
        assert has_it.wait(150)
        connection.close()

    has_it = threading.Event()
    path = raw_backend.on(script)
    with Connection.to(raw_stack.port) as client:
        client.send(post(path))
        assert client.read_head().get("content-length") == "100"
        assert client.read_exactly(10) == b"0123456789"
        has_it.set()
        with pytest.raises(Closed):
            client.read_exactly(1)
    exchange = raw_stack.exchange_of(path)
    assert (present(exchange.response).bytes, present(exchange.response).truncated) == (10, True)


def test_the_client_leaves_after_done(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Twenty times: usage and finish reason are there, although the stream never ended."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(STREAM + chunk(EVENT) + chunk(FINISH) + chunk(USAGE) + chunk(DONE))
        connection.read_to_end()

    for _ in range(20):
        path = raw_backend.on(script, CHAT)
        with Connection.to(raw_stack.port) as client:
            client.send(post(path))
            client.read_head()
            body = b""
            while not body.endswith(DONE):
                body += client.read_chunk()
        exchange = raw_stack.exchange_of(path)
        assert exchange.outcome == "ok_client_left_after_terminal"
        assert present(present(exchange.llm).usage)["completion_tokens"] == 2
        assert present(exchange.llm).finish_reasons == ["stop"]
        assert present(exchange.response).bytes == len(body)


def test_the_client_leaves_before_the_first_byte(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """No answer at all: the backend's connection is cut, and the exchange ends."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        seen.set()
        connection.read_to_end()

    seen = threading.Event()
    path = raw_backend.on(script, CHAT)
    with Connection.to(raw_stack.port) as client:
        client.send(post(path))
        assert seen.wait(150)
    exchange = raw_stack.exchange_of(path)
    assert (exchange.status, exchange.response) == (None, None)
    assert present(exchange.request).ended_by in ("end_of_stream", "content_length")


def test_the_client_leaves_in_mid_upload(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """What had come is kept, and marked as cut off."""

    def script(connection: Connection, head: Head) -> None:
        assert connection.read_chunk() == b"x" * 70_000
        seen.set()
        with pytest.raises(Closed):
            connection.read_chunk()

    seen = threading.Event()
    path = raw_backend.on(script, CHAT)
    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
        client.send(chunk(b"x" * 70_000))
        assert seen.wait(150)
        client.reset()
    exchange = raw_stack.exchange_of(path)
    assert present(exchange.request).ended_by in ("closed", "cancelled")
    assert present(exchange.request).bytes == 70_000
    assert present(exchange.request).truncated
    assert bodies.whole(exchange, "request") == b"x" * 70_000


def test_a_long_upload_is_known_while_it_goes_on(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """An upload that stalls gets an `open` record, so that it is not lost when the sidecar dies."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    path = raw_backend.on(script)

    def opened() -> bool:
        return any(record["type"] == "open" and record.get("path") == path for record in raw_stack.records())

    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
        client.send(chunk(b"some"))
        eventually(opened, "the open record")
        client.send(b"0\r\n\r\n")
        assert client.read_head().status == 200


def test_an_early_refusal(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """The backend answers 429 before it has read the request: both directions are recorded, once."""

    def script(connection: Connection, head: Head) -> None:
        assert connection.read_chunk() == b"first"
        connection.send(b"HTTP/1.1 429 Slow Down\r\ncontent-length: 4\r\nconnection: close\r\n\r\nslow")
        connection.close()

    path = raw_backend.on(script)
    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
        client.send(chunk(b"first"))
        assert client.read_message().head.status == 429
    # The answer ends first; the record of the request comes when Envoy lets go of it.
    eventually(lambda: raw_stack.exchange_of(path).request, "the request's record")
    exchange = raw_stack.exchange_of(path)
    assert (exchange.status, present(exchange.request).bytes, present(exchange.response).bytes) == (429, 5, 4)


def test_a_backend_that_refuses_connections(tmp_path: Path) -> None:
    """Envoy's own 503, and it says so."""
    backend = RawBackend()
    with backend, RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
        backend.stop()
        with Connection.to(stack.port) as client:
            client.send(post(CHAT))
            assert client.read_message().head.status == 503
        exchange = stack.exchange_of(CHAT)
    assert (exchange.outcome, exchange.status) == ("upstream_connect_fail", 503)


# The sidecar goes ------------------------------------------------------------------------------------------


def test_kill_9_in_mid_stream(tmp_path: Path) -> None:
    """The client's stream breaks, and the exchange ends as an orphan with its request whole."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(STREAM + chunk(EVENT))
        connection.read_to_end()

    with RawBackend() as backend:
        path = backend.on(script, CHAT)
        with RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
            with Connection.to(stack.port) as client:
                client.send(post(path))
                client.read_head()
                assert client.read_chunk() == EVENT
                os.kill(stack.workers()[0], signal.SIGKILL)
                with pytest.raises(Closed):
                    client.read_chunk()
            exchange = stack.exchange_of(path)
            assert exchange.outcome == "sidecar_restart_orphan"
            assert bodies.whole(exchange, "request") == PROMPT
            assert stack.stop() == 0
            assert stack.findings() == []


def test_kill_9_in_mid_upload(tmp_path: Path) -> None:
    """The client gets an error, the backend never the end, and what had come is kept."""
    with RawBackend() as backend:

        def script(connection: Connection, head: Head) -> None:
            assert connection.read_chunk() == b"x" * 90_000
            os.kill(stack.workers()[0], signal.SIGKILL)
            with pytest.raises(Closed):
                connection.read_chunk()

        path = backend.on(script, CHAT)
        with RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
            with Connection.to(stack.port) as client:
                client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
                client.send(chunk(b"x" * 90_000))
                assert client.read_head().status == 503
            exchange = stack.exchange_of(path)
            assert exchange.outcome == "sidecar_restart_orphan"
            assert present(exchange.request).ended_by == "orphan"
            assert stack.stop() == 0
            assert stack.findings() == []
        assert backend.errors == []


def test_without_a_sidecar_nothing_passes(tmp_path: Path) -> None:
    """A worker that is stopped: the client gets an error within Envoy's message_timeout, the backend nothing."""
    reached: list[str] = []

    def script(connection: Connection, head: Head) -> None:
        reached.append(head.path)

    with RawBackend() as backend:
        path = backend.on(script)
        with RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
            pid = stack.workers()[0]
            os.kill(pid, signal.SIGSTOP)
            try:
                with Connection.to(stack.port) as client:
                    client.send(post(path))
                    assert client.read_message().head.status in (503, 504)
            finally:
                os.kill(pid, signal.SIGCONT)
            assert stack.stop() == 0
        assert reached == []
