"""envoy/examples/gzip: JSON is compressed for clients that ask for it, and event streams never are."""

from __future__ import annotations

import gzip
import hashlib
import json
import queue
from collections.abc import Iterator

import pytest
from support.exchanges import present
from support.raw import Connection, Head, RawBackend
from support.recipes import Answer, Recipe

from extproc.history import bodies

LONG = json.dumps({"object": "list", "data": [{"index": number} for number in range(1000)]}).encode()
SHORT = b'{"object": "list", "data": []}'


class Backend(RawBackend):
    """An LLM server that answers what it is told to, and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted: list[str | None] = []

    def answers(self, body: bytes, *headers: str, chunked: bool = False) -> str:
        """The path of an answer with this body."""
        fields = "".join(f"{header}\r\n" for header in headers).encode()
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
        sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body

        def script(connection: Connection, head: Head) -> None:
            connection.finish(head)
            self.accepted.append(head.get("accept-encoding"))
            connection.send(b"HTTP/1.1 200 OK\r\n%b%b\r\n\r\n%b" % (fields, framing, sent))

        return self.on(script)


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    """The LLM server behind the recipe."""
    with Backend() as backend:
        yield backend
        assert backend.errors == []


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Iterator[Recipe]:
    """The recipe before that server."""
    with Recipe("gzip", tmp_path_factory.mktemp("gzip"), "--backend", backend.url) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def ask(recipe: Recipe, path: str, accept: str | None) -> Answer:
    """A request with such an accept-encoding; http.client's own says `identity`."""
    return recipe.client().ask(path=path, body=b"{}", accept_encoding=accept or "identity")


def assert_recorded(recipe: Recipe, backend: Backend, answer: Answer, body: bytes) -> None:
    """The record has the answer as the backend wrote it."""
    exchange = recipe.settled(answer)
    assert (exchange.outcome, exchange.cluster, exchange.route) == ("ok", "llm", "default")
    assert (exchange.upstream, exchange.attempts) == (f"127.0.0.1:{backend.port}", 1)
    assert (exchange.response_flags, exchange.integrity) == ([], [])
    assert bodies.whole(exchange, "response") == body
    assert present(exchange.response).sha256 == hashlib.sha256(body).hexdigest()
    assert present(exchange.response).bytes == len(body)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("accept", ["gzip", "br;q=1.0, gzip;q=0.8, *;q=0.1"])
def test_json_is_compressed(recipe: Recipe, backend: Backend, accept: str, chunked: bool) -> None:
    """The client gets less, and the same; the backend was not asked to compress; the record has what it wrote."""
    path = backend.answers(LONG, "content-type: application/json", 'etag: "strong"', chunked=chunked)
    answer = ask(recipe, path, accept)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"].lower() == "accept-encoding"
    # The length of what is made as it passes is not known before its end, and the tag was for other bytes.
    assert {"content-length", "etag"}.isdisjoint(answer.headers)
    assert gzip.decompress(answer.body) == LONG
    assert len(answer.body) < len(LONG) / 4
    assert backend.accepted[-1] is None
    assert_recorded(recipe, backend, answer, LONG)


@pytest.mark.parametrize("accept", [None, "gzip;q=0", "br"])
def test_who_does_not_ask_gets_it_plain(recipe: Recipe, backend: Backend, accept: str | None) -> None:
    """With its length; a cache in between is told that others might get it otherwise."""
    answer = ask(recipe, backend.answers(LONG, "content-type: application/json"), accept)
    assert "content-encoding" not in answer.headers
    assert (answer.headers["content-length"], answer.body) == (str(len(LONG)), LONG)
    assert answer.headers["vary"].lower() == "accept-encoding"
    assert_recorded(recipe, backend, answer, LONG)


def test_a_client_without_the_header_gets_it_plain(recipe: Recipe, backend: Backend) -> None:
    """No accept-encoding at all."""
    path = backend.answers(LONG, "content-type: application/json")
    with Connection.to(recipe.port) as client:
        client.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path.encode())
        answer = client.read_message()
    assert (answer.head.get("content-encoding"), answer.head.get("content-length")) == (None, str(len(LONG)))
    assert answer.body == LONG


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (SHORT, ["content-type: application/json"]),
        (LONG, ["content-type: application/octet-stream"]),
        (LONG, ["content-type: application/json", "cache-control: no-transform"]),
    ],
    ids=["short", "no JSON", "no-transform"],
)
def test_what_is_left_alone(recipe: Recipe, backend: Backend, body: bytes, headers: list[str]) -> None:
    """Little would be gained, or nothing, or the server forbids it."""
    answer = ask(recipe, backend.answers(body, *headers), "gzip")
    assert "content-encoding" not in answer.headers
    assert (answer.headers["content-length"], answer.body) == (str(len(body)), body)
    assert_recorded(recipe, backend, answer, body)


def test_a_backend_that_compresses_all_the_same(recipe: Recipe, backend: Backend) -> None:
    """It is compressed once: client and record have the server's own bytes."""
    packed = gzip.compress(LONG, mtime=0)
    assert len(packed) > 1024
    answer = ask(recipe, backend.answers(packed, "content-type: application/json", "content-encoding: gzip"), "gzip")
    assert (answer.headers["content-encoding"], answer.body) == ("gzip", packed)
    assert answer.headers["content-length"] == str(len(packed))
    assert_recorded(recipe, backend, answer, packed)


def test_tokens_still_come_one_by_one(recipe: Recipe, backend: Backend) -> None:
    """Each is at a client that takes gzip before the backend writes the next one; unchanged, and no `vary` for it."""
    tokens = [b"data: %d %b\n\n" % (number, b"x" * 2000) for number in range(20)]
    arrived: queue.SimpleQueue[None] = queue.SimpleQueue()

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        backend.accepted.append(head.get("accept-encoding"))
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for token in tokens:
            connection.send(b"%x\r\n%b\r\n" % (len(token), token))
            arrived.get(timeout=150)
        connection.send(b"0\r\n\r\n")

    path = backend.on(script)
    with Connection.to(recipe.port) as client:
        client.send(
            b"POST %b HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\ncontent-length: 0\r\n\r\n" % path.encode()
        )
        head = client.read_head()
        for token in tokens:
            got = b""
            while len(got) < len(token):
                got += client.read_chunk()
            assert got == token
            arrived.put(None)
        assert client.read_chunk() == b""
    assert (head.get("content-encoding"), head.get("vary"), backend.accepted[-1]) == (None, None, None)
    exchange = recipe.settled(head.get("x-audit-id") or "")
    assert (exchange.outcome, bodies.whole(exchange, "response")) == ("ok", b"".join(tokens))
