"""Tokens arrive one by one: the order of events proves it, whatever the machine's speed."""

from __future__ import annotations

import threading

import pytest
from support.exchanges import present
from support.raw import Connection, Head, RawBackend
from support.stack import RunningStack

EVENTS = [b'data: {"choices":[{"index":0,"delta":{"content":"token %d "}}]}\n\n' % number for number in range(20)]


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("prefix", ["/v1/chat/completions?number=", "/elsewhere/"])
def test_each_token_is_there_before_the_next_one_is_sent(
    raw_stack: RunningStack, raw_backend: RawBackend, prefix: str
) -> None:
    """The backend sends an event only when the client has the one before: gathering would stop it for good."""
    has_it = threading.Semaphore(0)

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in EVENTS:
            connection.send(chunk(event))
            assert has_it.acquire(timeout=150), "the client did not get the event"
        connection.send(b"0\r\n\r\n")

    path = raw_backend.on(script, prefix)
    with Connection.to(raw_stack.port) as client:
        body = b'{"model":"m","stream":true}'
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (path.encode(), len(body)) + body)
        head = client.read_head()
        assert head.status == 200
        for event in EVENTS:
            assert client.read_chunk() == event
            has_it.release()
        assert client.read_chunk() == b""
    exchange = raw_stack.exchange_of(path)
    assert present(exchange.response).bytes == sum(len(event) for event in EVENTS)
    assert present(present(exchange.response).chunks) >= len(EVENTS)


def test_a_pause_between_tokens_is_on_record(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """The longest silence of an answer, and at which byte of it the backend had stopped."""
    never = threading.Event()

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number, event in enumerate(EVENTS):
            never.wait(1.5 if number == 7 else 0.01)  # the pause itself
            connection.send(chunk(event))
        connection.send(b"0\r\n\r\n")

    path = raw_backend.on(script, "/v1/chat/completions?number=")
    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}" % path.encode())
        client.read_message()
    response = present(raw_stack.exchange_of(path).response)
    assert response.silence_at_byte == sum(map(len, EVENTS[:7]))
    silence_ms, silent_at_ms = present(response.max_silence_ms), present(response.silence_at_ms)
    assert silence_ms > 750
    assert present(response.first_byte_ms) < silent_at_ms
    assert silent_at_ms + silence_ms <= present(response.last_byte_ms)


def test_each_piece_of_an_upload_is_there_before_the_next_one_is_sent(
    raw_stack: RunningStack, raw_backend: RawBackend
) -> None:
    """The other way: a chunked request streams, and only its end waits for the disk."""
    got_it = threading.Semaphore(0)

    def script(connection: Connection, head: Head) -> None:
        while connection.read_chunk():
            got_it.release()
        connection.read_until(b"\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    path = raw_backend.on(script)
    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
        for event in EVENTS:
            client.send(chunk(event))
            assert got_it.acquire(timeout=150), "the backend did not get the piece"
        client.send(b"0\r\n\r\n")
        assert client.read_head().status == 200


def test_an_answer_may_start_before_the_request_has_ended(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Both directions at once: the first token comes back while the upload is still going on."""

    def script(connection: Connection, head: Head) -> None:
        assert connection.read_chunk() == b"first"
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"early"))
        assert connection.read_chunk() == b"second"
        assert connection.read_chunk() == b""
        connection.read_until(b"\r\n")
        connection.send(chunk(b"late") + b"0\r\n\r\n")

    path = raw_backend.on(script)
    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
        client.send(chunk(b"first"))
        assert client.read_head().status == 200
        assert client.read_chunk() == b"early"
        client.send(chunk(b"second") + b"0\r\n\r\n")
        assert client.read_chunk() == b"late"
        assert client.read_chunk() == b""
    exchange = raw_stack.exchange_of(path)
    assert exchange.outcome == "ok"
    assert (present(exchange.request).bytes, present(exchange.response).bytes) == (11, 9)
