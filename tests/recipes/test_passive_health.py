"""envoy/examples/passive-health: three failures in a row put a server out, and it comes back by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import Connection, Head
from support.recipes import Answer, Recipe
from support.servers import Servers, plain
from support.stack import eventually


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Three servers."""
    with Servers(3) as running:
        yield running


def short(name: str, text: str) -> str:
    """A second instead of thirty."""
    return text.replace("30s", "1s").replace("interval: 1s", "interval: 0.1s")


def ask(recipe: Recipe, times: int) -> list[Answer]:
    """Requests one after another on one connection: each server in its turn."""
    client = recipe.client()
    return [plain(client) for _ in range(times)]


def until_out(recipe: Recipe, number: int) -> None:
    """Wait until so many servers are out."""
    name = "cluster.llm.outlier_detection.ejections_active"
    eventually(lambda: recipe.envoy_stat(name) == number, f"{number} servers out")


def over(recipe: Recipe) -> None:
    """The end of every test."""
    assert recipe.stop() == 0
    assert recipe.findings() == []


def test_three_failures_put_a_server_out(tmp_path: Path, servers: Servers) -> None:
    """Not two; a success in between begins anew. What it refuses of a client's (400, 429) is no failure."""
    with Recipe("passive-health", tmp_path, backends=servers.ports) as recipe:
        for status, rounds in ((400, 5), (429, 5), (500, 2), (200, 1), (503, 2), (200, 1)):
            servers.failing[0] = status
            assert Counter(answer.status for answer in ask(recipe, 3 * rounds))[status] >= rounds
        servers.failing[0] = 500
        failed = [answer for answer in ask(recipe, 9) if answer.status == 500]
        assert [answer.upstream for answer in failed] == [servers.address(0)] * 3
        until_out(recipe, 1)
        assert Counter(answer.upstream for answer in ask(recipe, 60)) == {
            servers.address(1): 30,
            servers.address(2): 30,
        }
        exchange = recipe.settled(failed[0])
        assert (exchange.outcome, exchange.status) == ("upstream_error_status", 500)
        assert (exchange.upstream, exchange.attempts) == (servers.address(0), 1)
        over(recipe)


def test_a_server_that_refuses_connections_is_put_out(tmp_path: Path, servers: Servers) -> None:
    """Three requests are lost on it."""
    with Recipe("passive-health", tmp_path, backends=servers.ports) as recipe:
        servers.all[0].stop()
        failed = [answer for answer in ask(recipe, 9) if answer.status == 503]
        assert len(failed) == 3
        until_out(recipe, 1)
        assert {answer.status for answer in ask(recipe, 60)} == {200}
        assert failed[0].json()["error"]["code"] == "upstream_connect_failure"
        exchange = recipe.settled(failed[0])
        assert (exchange.outcome, exchange.upstream) == ("upstream_connect_fail", servers.address(0))
        assert exchange.response_flags == ["UF"]
        assert exchange.attempts == 1
        over(recipe)


def test_it_comes_back_by_itself(tmp_path: Path, servers: Servers) -> None:
    """After answers that failed as after connections that were refused, and each time anew."""
    with Recipe("passive-health", tmp_path, backends=servers.ports, edit=short) as recipe:
        for _ in range(2):
            servers.failing[0] = 502
            ask(recipe, 9)
            until_out(recipe, 1)
            servers.failing.clear()
            until_back(recipe, servers.address(0))
        servers.all[0].stop()
        ask(recipe, 9)
        until_out(recipe, 1)
        servers.replace(0)
        until_back(recipe, servers.address(0))
        over(recipe)


def until_back(recipe: Recipe, address: str) -> None:
    """Ask until a server answers again."""
    eventually(lambda: (address, 200) in {(answer.upstream, answer.status) for answer in ask(recipe, 3)}, "its return")


def test_when_all_are_out_all_are_tried(tmp_path: Path, servers: Servers) -> None:
    """Their own answers come through; with one healthy server left it gets everything."""
    with Recipe("passive-health", tmp_path, backends=servers.ports) as recipe:
        servers.failing |= {0: 500, 1: 500}
        ask(recipe, 15)  # whose turn it is next changes when the first one goes
        until_out(recipe, 2)
        assert {(a.upstream, a.status) for a in ask(recipe, 30)} == {(servers.address(2), 200)}
        servers.failing[2] = 500
        ask(recipe, 3)
        until_out(recipe, 3)
        assert len({a.upstream for a in ask(recipe, 30) if a.status == 500}) == 3
        servers.failing.clear()
        assert {a.status for a in ask(recipe, 30)} == {200}
        over(recipe)


def breaks(connection: Connection, head: Head, *, began: bool) -> None:
    """The connection ends before the answer, or within it."""
    if began:
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    connection.close()


@pytest.mark.parametrize(("began", "out"), [(False, 1), (True, 0)])
def test_a_connection_that_breaks(tmp_path: Path, servers: Servers, began: bool, out: int) -> None:
    """Before the answer's headers it counts, later it does not."""
    path = servers.all[0].on(lambda connection, head: breaks(connection, head, began=began), "/v1/breaks/")
    with Recipe("passive-health", tmp_path, backends=servers.ports) as recipe:
        for _ in range(30):
            connection = Connection.to(recipe.port)
            connection.send(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
            with connection:
                connection.read_head()
        until_out(recipe, out)
        over(recipe)


CHECKS = """  health_checks:
  - {timeout: 2s, interval: 0.1s, no_traffic_interval: 0.1s, unhealthy_threshold: 2, healthy_threshold: 1,
     http_health_check: {path: /health}}
"""
STAYS_OUT = "    successful_active_health_check_uneject_host: false\n"


@pytest.mark.parametrize(("more", "comes_back"), [("", True), (STAYS_OUT, False)])
def test_beside_health_checks(tmp_path: Path, servers: Servers, more: str, comes_back: bool) -> None:
    """One that succeeds brings a server back that has failed, unless Envoy is told otherwise."""
    last = "    enforcing_success_rate: 0\n"

    def edit(name: str, text: str) -> str:
        return text.replace(last, last + more).replace("  health_checks: null\n", CHECKS)

    with Recipe("passive-health", tmp_path, backends=servers.ports, edit=edit) as recipe:
        servers.failing[0] = 500
        ask(recipe, 9)
        eventually(lambda: recipe.envoy_stat("cluster.llm.outlier_detection.ejections_enforced_total") == 1, "one out")
        checks = recipe.envoy_stat("cluster.llm.health_check.success")
        eventually(lambda: recipe.envoy_stat("cluster.llm.health_check.success") > checks + 12, "some rounds of checks")
        assert (500 in {answer.status for answer in ask(recipe, 30)}) == comes_back
        over(recipe)
