"""envoy/examples/timeouts: silence ends an exchange, and the record says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.exchanges import present
from support.raw import Closed, Connection, Head, RawBackend
from support.recipes import Recipe

SECONDS = 2


@pytest.fixture(scope="module")
def backend() -> Iterator[RawBackend]:
    """The server behind `recipe`."""
    with RawBackend() as backend:
        yield backend
        assert backend.errors == []


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, backend: RawBackend) -> Iterator[Recipe]:
    """The recipe with a short patience."""

    def edit(name: str, text: str) -> str:
        assert name != "overlay.yaml" or "idle_timeout: 120s" in text
        return text.replace("idle_timeout: 120s", f"idle_timeout: {SECONDS}s")

    ports = {8001: backend.port, 8002: backend.port}
    with Recipe("timeouts", tmp_path_factory.mktemp("timeouts"), backends=ports, edit=edit) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def test_a_server_that_says_nothing(recipe: Recipe, backend: RawBackend) -> None:
    """504 in OpenAI's shape."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.read_to_end()

    answer = recipe.client().ask("GET", backend.on(script))
    assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    exchange = recipe.settled(answer)
    assert (exchange.outcome, exchange.response_flags) == ("upstream_timeout", ["SI"])


def test_a_stream_that_falls_silent(recipe: Recipe, backend: RawBackend) -> None:
    """It breaks off after what had come."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.send(b"9\r\ndata: {}\n\r\n")
        connection.read_to_end()

    with Connection.to(recipe.port) as client:
        client.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % backend.on(script).encode())
        head = client.read_head()
        assert client.read_chunk() == b"data: {}\n"
        with pytest.raises(Closed):
            client.read_chunk()
    assert recipe.told(head.get("x-audit-id") or "").outcome == "upstream_timeout"


def test_a_stream_that_goes_on(recipe: Recipe, backend: RawBackend) -> None:
    """However long it takes: a chunk within the patience begins it anew."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(10):
            connection.send(b"1\r\nx\r\n")
            time.sleep(SECONDS / 8)
        connection.send(b"0\r\n\r\n")

    answer = recipe.client().ask("GET", backend.on(script))
    assert answer.body == b"x" * 10
    exchange = recipe.settled(answer)
    assert exchange.outcome == "ok"
    assert present(exchange.duration_ms) > 1000 * SECONDS


def test_as_it_is(tmp_path: Path) -> None:
    """With its own figures and demo backends."""
    with Recipe("timeouts", tmp_path) as recipe:
        assert recipe.client().chat().status == 200
        assert recipe.stop() == 0
        assert recipe.findings() == []
