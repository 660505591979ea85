"""envoy/examples/discovery-eds: the backends are in a file that changes while the cluster stays."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Iterator

import pytest
from support.raw import Connection, Head, RawBackend
from support.recipes import Recipe
from support.stack import eventually


class Backend(RawBackend):
    """An LLM server. Of /slow it sends the second half when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.otherwise = self._answer

    @property
    def address(self) -> str:
        """Its `x-upstream`."""
        return f"127.0.0.1:{self.port}"

    def _answer(self, connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
        if head.path == "/slow":
            self.go_on.get(timeout=150)
        connection.send(b" half")


@dataclasses.dataclass
class Setup:
    """The recipe with three servers of the test's own, of which the file names the first two."""

    recipe: Recipe
    servers: list[Backend]
    shipped: str

    def write(self, *entries: str) -> None:
        """Write endpoints.yaml as an editor does."""
        head = self.shipped[: self.shipped.index("    - endpoint")]
        text = head + "".join(f"    - {entry}\n" for entry in entries)
        (self.recipe.envoy_dir / "endpoints.yaml").write_text(text)

    def entry(self, number: int) -> str:
        """The line of a server."""
        port = self.servers[number].port
        return f"endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"

    def used(self) -> set[int]:
        """The servers of twenty requests."""
        client = self.recipe.client()
        known = [server.address for server in self.servers]
        return {known.index(client.ask("GET", "/").upstream or "") for _ in range(20)}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """The running recipe."""
    servers = [Backend() for _ in range(3)]
    ports = {8001: servers[0].port, 8002: servers[1].port}
    with Recipe("discovery-eds", tmp_path_factory.mktemp("eds"), backends=ports) as recipe:
        yield Setup(recipe, servers, (recipe.envoy_dir / "endpoints.yaml").read_text())
        assert recipe.stop() == 0
        assert recipe.findings() == []
    for server in servers:
        server.stop()
        assert server.errors == []


@pytest.fixture
def both(setup: Setup) -> Setup:
    """The file names the first two servers, and both are used."""
    setup.write(setup.entry(0), setup.entry(1))
    eventually(lambda: setup.used() == {0, 1}, "both servers, and no other")
    return setup


def test_the_servers_of_the_file_are_used(both: Setup) -> None:
    """All of them; the record says which it was."""
    answer = both.recipe.client().ask("GET", "/")
    exchange = both.recipe.settled(answer)
    assert (exchange.outcome, exchange.cluster, exchange.route) == ("ok", "llm", "default")
    assert (exchange.upstream, exchange.attempts, exchange.response_flags) == (answer.upstream, 1, [])


def test_a_server_that_is_added(both: Setup) -> None:
    """It gets requests soon, the cluster is not replaced, and `up` says what is live now."""
    both.write(*(both.entry(number) for number in range(3)))
    eventually(lambda: both.used() == {0, 1, 2}, "the third server")
    for name in ("cluster_modified", "cluster_removed", "cds.update_rejected"):
        assert both.recipe.envoy_stat(f"cluster_manager.{name}") == 0
    assert both.recipe.envoy_stat("cluster.llm.update_rejected") == 0
    added = f"live: endpoints.yaml: llm: [0]: {both.servers[2].address} added"
    eventually(lambda: added in both.recipe.stderr(), added)


@pytest.mark.parametrize("how", ["removed", "draining"])
def test_a_server_that_is_taken_out(both: Setup, how: str) -> None:
    """It gets no more requests though it is healthy, and what runs on it comes to its end."""
    waiting = [Connection.to(both.recipe.port) for _ in range(20)]
    for client in waiting:
        client.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
    heads = [client.read_head() for client in waiting]
    assert [client.read_exactly(5) for client in waiting] == [b"first"] * 20
    assert {head.get("x-upstream") for head in heads} == {server.address for server in both.servers[:2]}
    gone = [f"{both.entry(0)}\n      health_status: DRAINING"] if how == "draining" else []
    both.write(*gone, both.entry(1))
    eventually(lambda: both.used() == {1}, "the second server alone")
    for _ in waiting:
        for server in both.servers:
            server.go_on.put(None)
    for client, head in zip(waiting, heads, strict=True):
        assert client.read_exactly(5) == b" half"
        assert both.recipe.settled(head.get("x-audit-id") or "").outcome == "ok"
        client.close()
    for server in both.servers:
        server.go_on = queue.SimpleQueue()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("endpoint: {adress: {}}", "endpoints.yaml:7:18: error: "),
        (
            "endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: eight}}}",
            "endpoints.yaml:7:77: error: ",
        ),
        ("endpoint: {address: {socket_address: {address: gpu7, port_value: 8000}}}", "malformed IP address: gpu7"),
    ],
)
def test_what_is_wrong_is_not_live(both: Setup, entry: str, said: str) -> None:
    """It is said with its place, the servers of before stay, and the next edit counts."""
    both.write(entry)
    eventually(lambda: said in both.recipe.stderr(), said)
    # Not at once: a health check that was late, on a busy machine, takes one of them out for a while.
    eventually(lambda: both.used() == {0, 1}, "the servers of before")
    both.write(both.entry(2))
    eventually(lambda: both.used() == {2}, "the third server alone")


def test_as_it_is_shipped(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With two demo backends."""
    with Recipe("discovery-eds", tmp_path_factory.mktemp("shipped")) as recipe:
        assert len(recipe.spread(50)) == 2
        assert recipe.stop() == 0
        assert recipe.findings() == []
