"""envoy/examples/discovery-dns and kubernetes: the addresses of a name are the backends, and follow it."""

from __future__ import annotations

import dataclasses
import http.server
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import PROGRAM
from support.nameserver import NameServer
from support.parts import Part, free_port
from support.raw import Connection
from support.recipes import Client, Recipe, copied
from support.stack import eventually

from extproc.history import reader

ADDRESSES = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
"""Where servers are, all on one port: all of 127/8 is this machine."""


class Handler(http.server.BaseHTTPRequestHandler):
    """An LLM server: GET /slow sends its first half, and the second one when the test says so."""

    protocol_version = "HTTP/1.1"
    go_on: queue.SimpleQueue[None]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "10")
        self.end_headers()
        self.wfile.write(b"first")
        self.wfile.flush()
        if self.path == "/slow":
            self.go_on.get(timeout=150)
        self.wfile.write(b" half")

    def log_message(self, *arguments: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """A server that may be many times on one port."""

    request_queue_size = 1024
    daemon_threads = True


@dataclasses.dataclass
class Pods:
    """The servers, one for each address."""

    port: int
    go_on: queue.SimpleQueue[None]

    def at(self, *numbers: int) -> set[str]:
        """Their `x-upstream`."""
        return {f"{ADDRESSES[number]}:{self.port}" for number in numbers}


@pytest.fixture(scope="module")
def pods() -> Iterator[Pods]:
    """Three servers at addresses of their own."""
    go_on: queue.SimpleQueue[None] = queue.SimpleQueue()
    handler = type("Handler", (Handler,), {"go_on": go_on})
    servers = [Server((ADDRESSES[0], 0), handler)]
    port = servers[0].server_address[1]
    servers += [Server((address, port), handler) for address in ADDRESSES[1:]]
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    yield Pods(port, go_on)
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


@dataclasses.dataclass
class Case:
    """A recipe, the name in it as it is written, and as it is asked for."""

    recipe: str
    written: str
    name: str

    def asking(self, names: NameServer, pods: Pods) -> Callable[[str, str], str]:
        """What makes the recipe ask a name server of the test's own, every second instead of every five."""

        def edit(file: str, text: str) -> str:
            ours = f"dns_refresh_rate: 1s\n      typed_dns_resolver_config: {names.resolver()}"
            text = text.replace("dns_refresh_rate: 5s", ours)
            return text.replace(self.written, f"{self.name}., port_value: {pods.port}")

        return edit


CASES = [
    Case("discovery-dns", "localhost, port_value: 8001", "llm.test"),
    Case("kubernetes", "vllm.default.svc.cluster.local., port_value: 8000", "vllm.default.svc.cluster.local"),
]


@dataclasses.dataclass
class Setup:
    """A recipe that asks a DNS server of the test's own."""

    case: Case
    recipe: Recipe
    names: NameServer

    def point_to(self, *addresses: str) -> None:
        """The addresses of the name from now on."""
        self.names.names[self.case.name] = list(addresses)

    def used(self) -> set[str | None]:
        """The upstreams of twenty requests."""
        client = self.recipe.client()
        return {client.ask("GET", "/").upstream for _ in range(20)}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.recipe)
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pods: Pods) -> Iterator[Setup]:
    """The recipe before the first two of the servers."""
    case: Case = request.param
    with NameServer({case.name: ADDRESSES[:2]}) as names:
        edit = case.asking(names, pods)
        with Recipe(case.recipe, tmp_path_factory.mktemp(case.recipe), edit=edit) as recipe:
            yield Setup(case, recipe, names)
            assert recipe.stop() == 0
            assert recipe.findings() == []


@pytest.fixture
def both(setup: Setup, pods: Pods) -> Setup:
    """The name has two addresses, and both are used."""
    setup.point_to(*ADDRESSES[:2])
    eventually(lambda: setup.used() == pods.at(0, 1), "both servers, and no other")
    return setup


def test_each_address_is_a_backend(both: Setup, pods: Pods) -> None:
    """All of them get requests; the record says which it was."""
    spread = both.recipe.spread(200, lambda client, _: client.ask("GET", "/"))
    assert set(spread) == pods.at(0, 1)
    answer = both.recipe.client().ask("GET", "/")
    exchange = both.recipe.settled(answer)
    assert (exchange.outcome, exchange.cluster, exchange.route) == ("ok", "llm", "default")
    assert (exchange.upstream, exchange.attempts, exchange.response_flags) == (answer.upstream, 1, [])


def test_no_search_list(both: Setup) -> None:
    """The dot at the end of the name: nothing else was ever asked for."""
    assert set(both.names.asked) == {both.case.name}


def test_an_address_that_comes(both: Setup, pods: Pods) -> None:
    """It gets requests, without a change of the configuration."""
    both.point_to(*ADDRESSES)
    eventually(lambda: both.used() == pods.at(0, 1, 2), "the third server")
    assert both.recipe.envoy_stat("cluster_manager.cluster_modified") == 0
    assert both.recipe.envoy_stat("cluster_manager.cluster_removed") == 0


def test_an_address_that_goes(both: Setup, pods: Pods) -> None:
    """It gets no more requests though it is healthy, and what runs on it comes to its end."""
    waiting: list[Connection] = []
    for _ in range(20):
        client = Connection.to(both.recipe.port)
        client.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        waiting.append(client)
    heads = [client.read_head() for client in waiting]
    assert [client.read_exactly(5) for client in waiting] == [b"first"] * 20
    assert {head.get("x-upstream") for head in heads} == pods.at(0, 1)
    both.point_to(ADDRESSES[1])
    eventually(lambda: both.used() == pods.at(1), "the second server alone")
    for _ in waiting:
        pods.go_on.put(None)
    for client, head in zip(waiting, heads, strict=True):
        assert client.read_exactly(5) == b" half"
        assert both.recipe.settled(head.get("x-audit-id") or "").outcome == "ok"
        client.close()


def test_a_name_server_that_fails(both: Setup, pods: Pods) -> None:
    """The addresses of its last answer stay."""
    failed = "cluster.llm.update_failure"
    before = both.recipe.envoy_stat(failed)
    both.names.names[both.case.name] = None
    eventually(lambda: both.recipe.envoy_stat(failed) >= before + 2, "two answers that say nothing")
    eventually(lambda: both.used() == pods.at(0, 1), "both servers, still")


def test_before_the_first_pod(tmp_path: Path, pods: Pods) -> None:
    """`up` waits for it, and says so; meanwhile the answer is that there is nobody."""
    case, port = CASES[1], free_port()
    with NameServer({}) as names:
        directory = copied(case.recipe, tmp_path / "envoy", {}, case.asking(names, pods))
        arguments = ("--envoy-dir", directory, "--data-dir", tmp_path / "data", "--port", str(port))
        with Part(
            tmp_path,
            "up",
            *PROGRAM,
            "up",
            *arguments,
            "--admin-port",
            "0",
            "--envoy-admin-port",
            "0",
            EXTPROC_PAGE="off",
        ) as up:
            up.wait_for("still waiting: the backends' names cannot be resolved")
            with Client(port) as client:
                answer = client.chat()
            assert (answer.status, answer.json()["error"]["code"]) == (503, "no_healthy_upstream")
            names.names[case.name] = ADDRESSES[:1]
            up.wait_for(f"ready http://127.0.0.1:{port}")
            assert up.stop() == 0
    (exchange,) = reader.exchanges([tmp_path / "data"])
    assert (exchange.outcome, exchange.cluster, exchange.status) == ("local_reply", "llm", 503)


def test_a_demo_backend_at_localhost(tmp_path: Path) -> None:
    """As it is shipped."""
    with Recipe("discovery-dns", tmp_path) as recipe:
        answer = recipe.client().chat()
        assert answer.status == 200
        assert recipe.settled(answer).outcome == "ok"
        assert len(recipe.demo_backends()) == 1
        assert recipe.stop() == 0
        assert recipe.findings() == []
