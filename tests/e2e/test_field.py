"""Answers as real servers have sent them, through the real Envoy: what the record and `extproc show` say of them."""

from __future__ import annotations

import threading

import pytest
from support import golden
from support.exchanges import present
from support.golden import Golden
from support.raw import Connection, Head, RawBackend
from support.stack import PATIENCE_SECONDS, RunningStack

from extproc.cli import show

pytestmark = pytest.mark.e2e

NO_BODY = 204


@pytest.mark.parametrize("name", golden.field_names())
def test_a_case_from_the_field(name: str, raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Client and backend see each other's bytes, a chunk at a time, and the record says what really happened."""
    fixture, chunks = golden.load(name), golden.chunks(name)
    arrived = [threading.Event() for _ in chunks]

    def answer(connection: Connection, head: Head) -> None:
        assert connection.finish(head).body == fixture.request_body
        connection.send(_head(fixture))
        for chunk, seen in zip(chunks, arrived, strict=True):
            connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            assert seen.wait(PATIENCE_SECONDS)
        if fixture.status != NO_BODY:
            connection.send(b"0\r\n\r\n")

    path = raw_backend.on(answer, f"{fixture.path}{'&' if '?' in fixture.path else '?'}case=")
    with Connection.to(raw_stack.port) as client:
        client.send(_request(fixture, path))
        assert client.read_head().status == fixture.status
        for chunk, seen in zip(chunks, arrived, strict=True):
            got = b""
            while len(got) < len(chunk):
                got += client.read_chunk()
            assert got == chunk
            seen.set()
        if fixture.status != NO_BODY:
            assert client.read_chunk() == b""
    exchange = raw_stack.exchange_of(path)
    assert exchange.outcome == fixture.outcome
    llm = exchange.members()["llm"] or {}
    assert {key: llm.get(key) for key in fixture.response or {} if key not in ("done", "cut")} == {
        key: value for key, value in (fixture.response or {}).items() if key not in ("done", "cut")
    }
    if fixture.first_token is not None:
        response = present(exchange.response)
        assert present(response.first_byte_ms) <= llm["ttft_ms"] <= present(response.last_byte_ms)
    printed = "\n".join(show.describe(exchange, ""))
    assert [text for text in fixture.shown if text not in printed] == []


def _head(fixture: Golden) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in fixture.response_headers)
    framing = "" if fixture.status == NO_BODY else "transfer-encoding: chunked\r\n"
    return f"HTTP/1.1 {fixture.status} X\r\n{fields}{framing}\r\n".encode()


def _request(fixture: Golden, path: str) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in fixture.request_headers)
    length = f"content-length: {len(fixture.request_body)}\r\n" if fixture.request_body else ""
    return f"{fixture.method} {path} HTTP/1.1\r\nhost: h\r\n{fields}{length}\r\n".encode() + fixture.request_body
