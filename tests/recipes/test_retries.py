"""envoy/examples/retries: a second server for what the first one never had, and for nothing else."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support.exchanges import present
from support.raw import Closed, Connection, Head, RawBackend
from support.recipes import Answer, Recipe
from support.stack import eventually

from extproc.history.join import Exchange

Fail = Callable[[Connection], None]

LIMIT = 8388608
"""Of overlay.yaml: what Envoy keeps of a request for a retry."""


def before(exchange: Exchange) -> list[tuple[str | None, int | None, list[str] | None]]:
    """Server, status and flags of each attempt before the last one."""
    return [(each.upstream, each.status, each.response_flags) for each in present(exchange.failed_attempts)]


class Servers:
    """Two servers that answer well, after `failures` times of `fail`. `asked` has what came, in its order."""

    def __init__(self) -> None:
        self.backends = [RawBackend(), RawBackend()]
        for backend in self.backends:
            backend.otherwise = self._script(backend)
        self.plan(None, 0)

    def plan(self, fail: Fail | None, failures: int) -> None:
        self.asked: list[tuple[int, str]] = []
        self._fail, self._failures = fail, failures

    def ports(self) -> dict[int, int]:
        return {8001: self.backends[0].port, 8002: self.backends[1].port}

    def stop(self) -> None:
        for backend in self.backends:
            backend.stop()

    def _script(self, backend: RawBackend) -> Callable[[Connection, Head], None]:
        def script(connection: Connection, head: Head) -> None:
            message = connection.finish(head)
            self.asked.append((backend.port, hashlib.sha256(message.body).hexdigest()))
            if self._fail is not None and len(self.asked) <= self._failures:
                self._fail(connection)
            else:
                connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        return script


def status(number: int) -> Fail:
    """An answer with this status."""
    return lambda connection: connection.send(b"HTTP/1.1 %d Oh\r\ncontent-length: 2\r\n\r\nno" % number)


def unchecked(name: str, text: str) -> str:
    """The recipe without health checks, which would find a dead server before a request does."""
    if name != "clusters.yaml":
        return text
    document = yaml.safe_load(text)
    del document["resources"][0]["health_checks"]
    return yaml.safe_dump(document)


# Two servers that live -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """The servers behind `recipe`."""
    servers = Servers()
    yield servers
    servers.stop()
    assert [backend.errors for backend in servers.backends] == [[], []]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Recipe]:
    """The recipe before two servers that do what a test says."""
    with Recipe("retries", tmp_path_factory.mktemp("retries"), backends=servers.ports()) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def test_a_503_is_tried_on_another_server(recipe: Recipe, servers: Servers) -> None:
    """The record has both attempts; the client sees only the last."""
    servers.plan(status(503), 1)
    answer = recipe.client().chat()
    assert (answer.status, len(servers.asked)) == (200, 2)
    (first, body), (second, again) = servers.asked
    assert first != second
    assert body == again
    exchange = recipe.settled(answer)
    assert (exchange.outcome, exchange.attempts, exchange.response_flags) == ("ok", 2, [])
    assert exchange.upstream == answer.upstream == f"127.0.0.1:{second}"
    assert before(exchange) == [(f"127.0.0.1:{first}", 503, [])]
    (failed,) = present(exchange.failed_attempts)
    assert (failed.cluster, failed.upstream_failure) == ("llm", None)
    envoy = present(exchange.envoy)
    assert present(envoy.started_at) <= present(failed.started_at) <= present(exchange.ended_at)
    assert 0 < present(failed.duration_ms) < present(envoy.duration_ms)
    assert len(list(recipe.records(exchange.id))) == 3  # request, response, access


def test_three_attempts_are_all(recipe: Recipe, servers: Servers) -> None:
    """The last server's own words are the answer."""
    servers.plan(status(503), 9)
    answer = recipe.client().chat()
    assert (answer.status, answer.body, len(servers.asked)) == (503, b"no", 3)
    exchange = recipe.settled(answer)
    assert (exchange.outcome, exchange.attempts) == ("upstream_error_status", 3)
    assert exchange.response_flags == ["URX"]
    assert before(exchange) == [(f"127.0.0.1:{port}", 503, []) for port, _ in servers.asked[:2]]
    assert exchange.upstream == f"127.0.0.1:{servers.asked[2][0]}"


@pytest.mark.parametrize("number", [400, 408, 429, 500, 502, 504])
def test_other_statuses_are_answers(recipe: Recipe, servers: Servers, number: int) -> None:
    """500 is what vLLM says when a request has killed its engine."""
    servers.plan(status(number), 1)
    answer = recipe.client().chat()
    assert (answer.status, len(servers.asked)) == (number, 1)
    exchange = recipe.settled(answer)
    assert (exchange.attempts, exchange.failed_attempts) == (1, [])


@pytest.mark.parametrize("end", [Connection.close, Connection.reset])
def test_a_server_that_dies_of_a_request_kills_no_other(recipe: Recipe, servers: Servers, end: Fail) -> None:
    """It has read the request, so nobody else gets it."""
    servers.plan(end, 9)
    answer = recipe.client().chat()
    assert (answer.status, len(servers.asked)) == (503, 1)
    assert answer.json()["error"]["code"] == "upstream_reset"
    exchange = recipe.settled(answer)
    assert (exchange.outcome, exchange.attempts) == ("upstream_reset_before_headers", 1)
    assert exchange.failed_attempts == []
    assert exchange.upstream == f"127.0.0.1:{servers.asked[0][0]}"


def test_a_stream_that_breaks_off_is_not_begun_again(recipe: Recipe, servers: Servers) -> None:
    """The client gets the cut after what it had, and the record says so."""

    def breaks_off(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.send(b"9\r\ndata: {}\n\r\n")
        assert has_it.wait(150)
        connection.reset()

    has_it = threading.Event()
    servers.plan(breaks_off, 9)
    with Connection.to(recipe.port) as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
        head = client.read_head()
        assert client.read_chunk() == b"data: {}\n"
        has_it.set()
        with pytest.raises(Closed):
            client.read_chunk()
    assert len(servers.asked) == 1
    exchange = recipe.told(head.get("x-audit-id") or "")
    assert (exchange.outcome, exchange.attempts) == ("upstream_reset_mid_stream", 1)
    assert exchange.failed_attempts == []


@pytest.mark.parametrize(("size", "attempts"), [(LIMIT - 1024, 2), (LIMIT + 1024 * 1024, 1)])
def test_a_request_is_kept_up_to_a_size(recipe: Recipe, servers: Servers, size: int, attempts: int) -> None:
    """Beyond it the first server's 503 is the answer; up to it the second gets the very same bytes."""
    servers.plan(status(503), 1)
    body = bytes(range(256)) * (size // 256)
    answer = recipe.client().ask(body=body)
    assert answer.status == (200 if attempts == 2 else 503)
    assert [digest for _, digest in servers.asked] == [hashlib.sha256(body).hexdigest()] * attempts
    exchange = recipe.settled(answer)
    assert (exchange.attempts, present(exchange.request).bytes) == (attempts, len(body))


# One of them is dead -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recipe, Servers]]:
    """The recipe before a server that is dead, which no health check has found, and one that lives."""
    servers = Servers()
    servers.backends[0].stop()
    directory = tmp_path_factory.mktemp("halved")
    with Recipe("retries", directory, backends=servers.ports(), edit=unchecked) as running:
        yield running, servers
        assert running.stop() == 0
        assert running.findings() == []
    servers.stop()


def test_a_dead_server_costs_no_request(halved: tuple[Recipe, Servers]) -> None:
    """Whoever meets it is sent on, until each way has been gone."""
    recipe, servers = halved
    dead, alive = (f"127.0.0.1:{backend.port}" for backend in servers.backends)
    attempts = set()

    def both_ways() -> bool:
        answer = recipe.client().chat()
        assert (answer.status, answer.upstream) == (200, alive)
        exchange = recipe.settled(answer)
        assert (exchange.outcome, exchange.upstream) == ("ok", alive)
        assert before(exchange) == [(dead, None, ["UF"])] * (present(exchange.attempts) - 1)
        attempts.add(exchange.attempts)
        return attempts == {1, 2}

    eventually(both_ways, "a request that met the dead server first, and one that did not")
    assert recipe.envoy_stat("cluster.llm.upstream_rq_retry_success") >= 1


def test_a_request_too_long_for_a_retry_gets_a_clear_answer(halved: tuple[Recipe, Servers]) -> None:
    """503 in OpenAI's shape, whether the dead server was met before Envoy had the limit's bytes or after."""
    recipe, _ = halved

    def refused() -> Answer | None:
        answer = recipe.client().ask(body=b" " * (LIMIT + 1024 * 1024))
        return None if answer.status == 200 else answer

    answer = eventually(refused, "a long request that met the dead server")
    assert answer.status == 503
    assert answer.json()["error"]["code"] == "upstream_connect_failure"
    assert answer.headers["retry-after"] == "1"
    exchange = recipe.settled(answer)
    assert (exchange.outcome, exchange.response_code_details) in [
        ("local_reply", "request_payload_exceeded_retry_buffer_limit"),
        (
            "upstream_connect_fail",
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
        ),
    ]


def test_no_server_left(tmp_path: Path) -> None:
    """After three attempts the client is told, and the record names the last server."""
    servers = Servers()
    servers.stop()
    with Recipe("retries", tmp_path, backends=servers.ports(), edit=unchecked) as recipe:
        answer = recipe.client().chat()
        assert answer.json()["error"]["code"] == "upstream_connect_failure"
        exchange = recipe.settled(answer)
        assert (exchange.outcome, exchange.attempts) == ("upstream_connect_fail", 3)
        assert exchange.response_flags == ["UF", "URX"]
        both = {f"127.0.0.1:{backend.port}" for backend in servers.backends}
        assert exchange.upstream in both
        failed = present(exchange.failed_attempts)
        assert {each.upstream for each in failed} <= both
        assert [each.response_flags for each in failed] == [["UF"], ["UF"]]
        assert all("Connection refused" in present(each.upstream_failure) for each in failed)


def test_without_a_budget_the_first_failure_is_the_answer(tmp_path: Path) -> None:
    """The retries of overloaded servers end somewhere: here at once."""
    servers = Servers()
    servers.plan(status(503), 9)

    def edit(name: str, text: str) -> str:
        budget = "{budget_percent: {value: 20}, min_retry_concurrency: 3}"
        assert name != "overlay.yaml" or budget in text
        return text.replace(budget, "{budget_percent: {value: 0}, min_retry_concurrency: 0}")

    with Recipe("retries", tmp_path, backends=servers.ports(), edit=edit) as recipe:
        answer = recipe.client().chat()
        assert (answer.status, len(servers.asked)) == (503, 1)
        exchange = recipe.settled(answer)
        assert (exchange.outcome, exchange.attempts) == ("upstream_error_status", 1)
        assert recipe.envoy_stat("cluster.llm.upstream_rq_retry_overflow") == 1
    servers.stop()


# HTTP/2 --------------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


class Http2Server:
    """Refuses a stream when it is the first that is `asked`, and answers 200 to others; of HTTP/2 it knows only what
    that takes."""

    def __init__(self, asked: list[int]) -> None:
        self._asked = asked
        self.backend = RawBackend()
        self.backend.otherwise = self._serve

    def _serve(self, connection: Connection, head: Head) -> None:
        assert head.line == "PRI * HTTP/2.0"
        connection.read_until(b"SM\r\n\r\n")
        connection.send(frame(4, 0, 0))
        while True:
            size, kind, flags, stream = self._read_frame(connection)
            connection.read_exactly(size)
            if kind == 4 and not flags & 1:  # SETTINGS
                connection.send(frame(4, 1, 0))
            elif kind == 1:  # HEADERS
                self._asked.append(self.backend.port)
                refused = len(self._asked) == 1
                # RST_STREAM with REFUSED_STREAM, or HEADERS with `:status: 200` that end the stream.
                connection.send(frame(3, 0, stream, b"\0\0\0\x07") if refused else frame(1, 5, stream, b"\x88"))

    @staticmethod
    def _read_frame(connection: Connection) -> tuple[int, int, int, int]:
        head = connection.read_exactly(9)
        return int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])


def test_a_refused_stream_goes_to_another_server(tmp_path: Path) -> None:
    """An HTTP/2 server has said that it did not begin."""
    asked: list[int] = []
    servers = [Http2Server(asked), Http2Server(asked)]

    def edit(name: str, text: str) -> str:
        if name != "clusters.yaml":
            return text
        document = yaml.safe_load(unchecked(name, text))
        (options,) = document["resources"][0]["typed_extension_protocol_options"].values()
        options["explicit_http_config"] = {"http2_protocol_options": {}}
        return yaml.safe_dump(document)

    ports = {8001: servers[0].backend.port, 8002: servers[1].backend.port}
    with Recipe("retries", tmp_path, backends=ports, edit=edit) as recipe:
        answer = recipe.client().chat()
        assert answer.status == 200
        assert len(set(asked)) == len(asked) == 2
        exchange = recipe.settled(answer)
        assert (exchange.attempts, exchange.upstream) == (2, f"127.0.0.1:{asked[1]}")
        assert before(exchange) == [(f"127.0.0.1:{asked[0]}", None, ["UR"])]
        assert recipe.stop() == 0
    for server in servers:
        server.backend.stop()
        assert server.backend.errors == []


# As it is ------------------------------------------------------------------------------------------------------


def test_as_it_is(tmp_path: Path) -> None:
    """With its demo backends: nothing fails, nothing is tried twice."""
    with Recipe("retries", tmp_path) as recipe:
        assert sum(recipe.spread(40).values()) == 40
        assert recipe.envoy_stat("cluster.llm.upstream_rq_retry") == 0
        assert recipe.stop() == 0
        assert recipe.findings() == []
