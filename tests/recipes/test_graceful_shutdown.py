"""envoy/examples/graceful-shutdown: a server, or Envoy itself, goes without an answer being cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import PROGRAM
from support.exchanges import present
from support.parts import EnvoyPart, Part, free_port
from support.raw import Connection, Head, RawBackend
from support.recipes import Answer, Client, Recipe
from support.stack import eventually
from support.traffic import PATH, Servers, Traffic, question

from extproc.history import reader, verify


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """The two servers of the recipe."""
    with Servers(2) as running:
        yield running


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Recipe]:
    """The recipe before these servers."""
    first, second = servers.ports
    directory = tmp_path_factory.mktemp("drain")
    with Recipe("graceful-shutdown", directory, backends={8001: first, 8002: second}) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []
        assert {exchange.outcome for exchange in running.exchanges()} <= {"ok", "local_reply"}


LIVE = "live: clusters.yaml: llm: "


@pytest.fixture(autouse=True)
def all_in_service(recipe: Recipe, servers: Servers) -> Iterator[None]:
    """At the end of each test."""
    yield
    servers.unhealthy.clear()
    in_service(recipe, 2)


def in_service(recipe: Recipe, count: int) -> None:
    """Wait until Envoy counts so many healthy servers."""
    eventually(lambda: recipe.envoy_stat("cluster.llm.membership_healthy") == count, f"{count} servers in service")


def upstreams(recipe: Recipe, requests: int = 20) -> set[str | None]:
    """The servers of some new requests."""
    with recipe.client() as client:
        answers = [client.ask(body=question(0)) for _ in range(requests)]
    assert {answer.status for answer in answers} == {200}
    return {answer.upstream for answer in answers}


def drained(recipe: Recipe, *, draining: bool) -> None:
    """Say in overlay.yaml that the first server is draining, or take it back."""
    path = recipe.envoy_dir / "overlay.yaml"
    commented, active = "        # health_status: DRAINING\n", "        health_status: DRAINING\n"
    old, new = (commented, active) if draining else (active, commented)
    text = path.read_text()
    assert old in text
    told = recipe.stderr().count(LIVE)
    path.write_text(text.replace(old, new))
    eventually(lambda: recipe.stderr().count(LIVE) > told, "the line that says that it is live")


def test_a_server_that_says_that_it_is_draining(recipe: Recipe, servers: Servers) -> None:
    """What runs on it ends whole, new requests go to the other one, and it comes back when it says so."""
    first, second = servers.ports
    with Traffic(recipe.port, rate=60, streams=0.5) as traffic:
        eventually(lambda: servers.running[first] > 5, "streams on the first server")
        servers.unhealthy.add(first)
        in_service(recipe, 1)
        assert servers.running[first] > 0
        eventually(lambda: upstreams(recipe) == {f"127.0.0.1:{second}"}, "the others alone")
        eventually(lambda: servers.running[first] == 0, "the end of what ran on it")
        servers.unhealthy.clear()
        eventually(lambda: servers.running[first] > 0, "requests on it again")
        assert traffic.end() == []


def test_a_server_that_you_say_is_draining(recipe: Recipe, servers: Servers) -> None:
    """A line in clusters.yaml: what runs ends whole, and nothing new comes but what has a session there."""
    first, second = servers.ports
    session, at = with_session(recipe, first)
    with Traffic(recipe.port, rate=60, streams=0.5) as traffic:
        eventually(lambda: servers.running[first] > 5, "streams on the first server")
        drained(recipe, draining=True)
        assert servers.running[first] > 0
        eventually(lambda: upstreams(recipe) == {f"127.0.0.1:{second}"}, "the others alone")
        assert {session.ask(body=question(0), cookie=at).upstream for _ in range(10)} == {f"127.0.0.1:{first}"}
        eventually(lambda: servers.running[first] == 0, "the end of what ran on it")
        drained(recipe, draining=False)
        eventually(lambda: servers.running[first] > 0, "requests on it again")
        assert traffic.end() == []
    assert "health_status added: DRAINING" in recipe.stderr()


def with_session(recipe: Recipe, port: int) -> tuple[Client, str]:
    """A client whose session is on the server of this port, and its cookie."""
    client = recipe.client()

    def answered_there() -> Answer | None:
        answer = client.ask(body=question(0))
        return answer if answer.upstream == f"127.0.0.1:{port}" else None

    answer = eventually(answered_there, f"an answer of port {port}")
    return client, answer.headers["set-cookie"].partition(";")[0]


def test_a_session_leaves_a_server_that_is_going(recipe: Recipe, servers: Servers) -> None:
    """One that says 503 itself keeps nobody."""
    first, second = servers.ports
    session, at = with_session(recipe, first)
    assert session.ask(body=question(0), cookie=at).upstream == f"127.0.0.1:{first}"
    servers.unhealthy.add(first)
    eventually(
        lambda: session.ask(body=question(0), cookie=at).upstream == f"127.0.0.1:{second}", "the session at the other"
    )


def test_when_all_are_draining(recipe: Recipe, servers: Servers) -> None:
    """A clear 503 that says when to come again, and no server is asked."""
    servers.unhealthy.update(servers.ports)
    client = recipe.client()

    def refused() -> Answer | None:
        answer = client.ask(body=question(0))
        return answer if answer.status != 200 else None

    answer = eventually(refused, "a refusal")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "no_healthy_upstream"
    exchange = recipe.exchange(answer.headers["x-audit-id"])
    assert (exchange.outcome, exchange.response_flags, exchange.upstream) == ("local_reply", ["UH"], None)


# Envoy itself ----------------------------------------------------------------------------------------------


class Own:
    """The sidecar, and files for Envoys that a test starts itself."""

    def __init__(self, directory: Path, backend: RawBackend | int) -> None:
        self.directory = directory
        self.port = free_port()
        self.envoy_dir = directory / "envoy"
        self.envoy_dir.mkdir()
        self.backend = backend if isinstance(backend, int) else backend.port
        self.sidecar = Part(
            directory, "serve", *PROGRAM, "serve", "--data-dir", directory / "data", "--admin-port", "0"
        )

    def published(self, name: str, server: str) -> Path:
        """The bootstrap of an Envoy that calls itself so in the header `server`."""
        target = self.directory / "live"
        (self.envoy_dir / "overlay.yaml").write_text(OVERLAY.format(server=server))
        command = (*PROGRAM, "publish", "--data-dir", self.directory / "data", "--envoy-dir", self.envoy_dir)
        backend = ("--backend", f"http://127.0.0.1:{self.backend}")
        ports = {"EXTPROC_PORT": self.port, "EXTPROC_ENVOY_ADMIN_PORT": 0}
        with Part(self.directory, name, *command, *backend, "--to", target, **ports) as publishing:
            assert publishing.ended() == 0, publishing.stderr()
        return target / "envoy.yaml"


OVERLAY = """\
static_resources:
  listeners:
  - name: ingress
    filter_chains:
    - name: ingress
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config: {{server_name: {server}, server_header_transformation: OVERWRITE}}
"""


class Slow:
    """A backend with an answer that ends when the test says so."""

    def __init__(self, backend: RawBackend) -> None:
        self.path = backend.on(self._begin)
        self._connections: list[Connection] = []

    def _begin(self, connection: Connection, head: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        self._connections.append(connection)

    def ask(self, port: int) -> Connection:
        """A client to which the beginning has come."""
        client = Connection.to(port)
        client.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % self.path.encode())
        client.read_head()
        assert client.read_chunk() == b"begun"
        return client

    def finish(self) -> None:
        """The end of the answer."""
        self._connections.pop().send(b"5\r\nended\r\n0\r\n\r\n")


def short(connection: Connection, head: Head) -> None:
    """An answer of two bytes."""
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def accepts(port: int) -> bool:
    """Whether somebody listens on this port."""
    try:
        Connection.to(port).close()
    except ConnectionRefusedError:
        return False
    return True


def test_envoys_own_draining(tmp_path: Path) -> None:
    """POST /drain_listeners?graceful: what runs goes on, connections close after it, then no new ones are taken."""
    with RawBackend() as backend:
        own, slow, path = Own(tmp_path, backend), Slow(backend), backend.on(short)
        options = ("--disable-hot-restart", "--drain-time-s", "1", "--drain-strategy", "immediate")
        with own.sidecar as sidecar, EnvoyPart(tmp_path, own.published("publish", "one"), *options) as envoy:
            kept = Connection.to(own.port)
            kept.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path.encode())
            assert kept.read_message().head.get("connection") is None
            running = slow.ask(own.port)
            envoy.ask("/drain_listeners?graceful", "POST")
            kept.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path.encode())
            assert kept.read_message().head.get("connection") == "close"
            assert kept.read_to_end() == b""
            kept.close()
            eventually(lambda: not accepts(own.port), "the end of the listener")
            slow.finish()
            assert running.read_chunk() == b"ended"
            assert running.read_chunk() == b""
            running.close()
            assert envoy.stop() == 0
            assert sidecar.stop() == 0
    exchanges = list(reader.exchanges([tmp_path / "data"]))
    assert [exchange.outcome for exchange in exchanges] == ["ok"] * 3
    assert list(verify.verify(tmp_path / "data")) == []


def test_hot_restart(tmp_path: Path) -> None:
    """A new Envoy, with a new envoy.yaml, takes over: open streams end on the old one, and no request is lost."""
    with RawBackend() as backend, Servers(1) as servers:
        own, slow = Own(tmp_path, servers.ports[0]), Slow(backend)
        (own.envoy_dir / "routes.yaml").write_text(ROUTES.format(path=slow.path))
        (own.envoy_dir / "clusters.yaml").write_text(CLUSTERS.format(port=backend.port))
        times = ("--drain-time-s", "2", "--parent-shutdown-time-s", "6", "--drain-strategy", "immediate")
        base = tmp_path / "base-id"
        first = ("--use-dynamic-base-id", "--base-id-path", str(base), *times)
        with own.sidecar as sidecar, EnvoyPart(tmp_path, own.published("publish", "old"), *first, name="old") as old:
            with Traffic(own.port, rate=60, streams=0.1, keep=False) as traffic:
                traffic.goes_on()
                running = slow.ask(own.port)
                second = ("--base-id", base.read_text().strip(), "--restart-epoch", "1", *times)
                with EnvoyPart(tmp_path, own.published("again", "new"), *second, name="new") as new:
                    eventually(lambda: server(own.port) == "new", "an answer of the new Envoy")
                    assert {server(own.port) for _ in range(20)} == {"new"}
                    assert old.process.poll() is None
                    slow.finish()
                    assert running.read_chunk() == b"ended"
                    assert running.read_chunk() == b""
                    running.close()
                    assert old.ended() == 0
                    traffic.goes_on()
                    assert traffic.end() == []
                    assert new.stop() == 0
            assert sidecar.stop() == 0
        exchanges = list(reader.exchanges([tmp_path / "data"]))
    assert {exchange.outcome for exchange in exchanges} == {"ok"}
    assert len([exchange for exchange in exchanges if exchange.path == PATH]) >= traffic.finished + 21
    (slow_one,) = [exchange for exchange in exchanges if exchange.path == slow.path]
    assert present(slow_one.response).bytes == len("begunended")
    assert list(verify.verify(tmp_path / "data")) == []


def server(port: int) -> str | None:
    """The Envoy that takes a new connection, by the header of its answer."""
    client = Client(port)
    try:
        return client.ask(body=question(0)).headers.get("server")
    finally:
        client.close()


ROUTES = """\
resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: ingress
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {{match: {{path: {path}}}, route: {{cluster: slow, timeout: 0s, idle_timeout: 600s}}}}
    - {{match: {{prefix: /}}, route: {{cluster: llm, timeout: 0s, idle_timeout: 600s}}}}
"""

CLUSTERS = """\
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: llm
  type: STATIC
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: slow
  type: STATIC
  load_assignment:
    cluster_name: slow
    endpoints:
    - lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]
"""
