"""envoy/examples/fallback: primary servers, a reserve, a smaller model, a clear error, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.raw import Connection, Head, RawBackend
from support.recipes import Recipe
from support.stack import eventually

PORTS = (8001, 8002, 8003, 8004)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Servers:
    """The four servers of the recipe, each of which may say that it is not well; it serves requests all the same."""

    def __init__(self) -> None:
        self.backends = {port: RawBackend() for port in PORTS}
        self.well = set(PORTS)
        for port, backend in self.backends.items():
            backend.otherwise = lambda connection, head, port=port: self._answer(port, connection, head)

    def ports(self) -> dict[int, int]:
        return {port: backend.port for port, backend in self.backends.items()}

    def name(self, upstream: str | None) -> int | None:
        """The port in the recipe of an upstream."""
        return next((port for port, each in self.backends.items() if upstream == f"127.0.0.1:{each.port}"), None)

    def stop(self) -> None:
        for backend in self.backends.values():
            backend.stop()
            assert backend.errors == []

    def _answer(self, port: int, connection: Connection, head: Head) -> None:
        connection.finish(head)
        sick = head.path == "/alive" and port not in self.well
        connection.send(b"HTTP/1.1 500 Sick\r\ncontent-length: 0\r\n\r\n" if sick else OK)


def fast(name: str, text: str) -> str:
    """The recipe with health checks at a path of the test's own, many a second, that count at once."""
    if name != "clusters.yaml":
        return text
    document = yaml.safe_load(text)
    for cluster in document["resources"]:
        for check in cluster.get("health_checks", ()):
            for interval in [each for each in check if each.endswith("interval")]:
                check[interval] = "0.05s"
            check["http_health_check"]["path"] = "/alive"
    return yaml.safe_dump(document)


def unchecked(name: str, text: str) -> str:
    """The recipe before any health check has found anything."""
    if name != "clusters.yaml":
        return text
    document = yaml.safe_load(text)
    for cluster in document["resources"]:
        cluster.pop("health_checks", None)
    return yaml.safe_dump(document)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """The servers behind `recipe`."""
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Recipe]:
    """The recipe, which finds within moments how its servers are."""
    with Recipe("fallback", tmp_path_factory.mktemp("fallback"), backends=servers.ports(), edit=fast) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def become(recipe: Recipe, servers: Servers, well: Sequence[int]) -> None:
    """Let these servers be well and no others, and wait until Envoy has found out."""
    servers.well = set(well)
    small = {8004} & servers.well
    wanted = {"llm": len(servers.well) - len(small), "llm-small": len(small)}
    for cluster, number in wanted.items():
        name = f"cluster.{cluster}.membership_healthy"
        eventually(lambda name=name, number=number: recipe.envoy_stat(name) == number, f"{name} {number}")  # type: ignore[misc]


STAGES = [
    # which servers are well, which of them get requests, and the cluster that the record names
    ((8001, 8002, 8003, 8004), {8001, 8002}, "llm"),
    ((8002, 8003, 8004), {8002, 8003}, "llm"),
    ((8003, 8004), {8003}, "llm"),
    ((8004,), {8004}, "llm-small"),
    ((), set(), None),
    ((8004,), {8004}, "llm-small"),
    ((8003, 8004), {8003}, "llm"),
    ((8001, 8003, 8004), {8001, 8003}, "llm"),
    ((8001, 8002, 8003, 8004), {8001, 8002}, "llm"),
    ((8001, 8004), {8001, 8004}, None),
    ((8001,), {8001}, "llm"),
]


def test_stage_by_stage_down_and_up(recipe: Recipe, servers: Servers) -> None:
    """Each server that goes and comes moves the requests; the record names who answered."""
    for well, answering, cluster in STAGES:
        become(recipe, servers, well)
        answers = [recipe.client().chat() for _ in range(40)]
        assert {servers.name(answer.upstream) for answer in answers if answer.status == 200} == answering, well
        assert {answer.status for answer in answers} == ({200} if answering else {503}), well
        exchange = recipe.settled(answers[-1])
        assert exchange.attempts == 1
        assert exchange.upstream == answers[-1].upstream
        if cluster is not None:
            assert (exchange.cluster, exchange.outcome) == (cluster, "ok")


def test_half_of_the_primary_servers_get_half_of_the_requests(recipe: Recipe, servers: Servers) -> None:
    """The rest goes to the reserve: 400 of 800, within five standard deviations."""
    become(recipe, servers, (8001, 8003, 8004))
    spread = recipe.spread(800)
    assert {servers.name(upstream) for upstream in spread} == {8001, 8003}
    assert all(329 <= count <= 471 for count in spread.values()), spread


def test_when_nobody_is_left_the_error_is_clear(recipe: Recipe, servers: Servers) -> None:
    """503 in OpenAI's shape; the record has the flag UH and no upstream."""
    become(recipe, servers, ())
    answer = recipe.client().chat()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("service_unavailable_error", "no_healthy_upstream")
    exchange = recipe.settled(answer)
    assert (exchange.outcome, exchange.response_flags) == ("local_reply", ["UH"])
    assert (exchange.response_code_details, exchange.upstream) == ("no_healthy_upstream", None)
    assert exchange.cluster == "llm-or-smaller"


UNFOUND = [
    # which servers are dead, and who answers, after how many attempts, from which cluster
    ((), {(8001, 1, "llm"), (8002, 1, "llm")}),
    ((8001, 8002), {(8003, 2, "llm")}),
    ((8001, 8002, 8003), {(8004, 3, "llm-small")}),
]


@pytest.mark.parametrize(("dead", "answering"), UNFOUND)
def test_before_a_health_check_finds_it(tmp_path: Path, dead: tuple[int, ...], answering: set[Any]) -> None:
    """What cannot connect goes to the next stage at once."""
    servers = Servers()
    for port in dead:
        servers.backends[port].stop()
    with Recipe("fallback", tmp_path, backends=servers.ports(), edit=unchecked) as recipe:
        seen: Counter[Any] = Counter()
        answers = [recipe.client().chat() for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        for answer in answers:
            exchange = recipe.settled(answer)
            seen[servers.name(answer.upstream), exchange.attempts, exchange.cluster] += 1
        assert set(seen) == answering
        assert recipe.stop() == 0
        assert recipe.findings() == []
    servers.stop()


def test_every_stage_dead_before_a_health_check_finds_it(tmp_path: Path) -> None:
    """The client is told that nobody could be reached; the record has each attempt counted and the last server."""
    servers = Servers()
    servers.stop()
    with Recipe("fallback", tmp_path, backends=servers.ports(), edit=unchecked) as recipe:
        answer = recipe.client().chat()
        assert answer.status == 503
        assert answer.json()["error"]["code"] == "upstream_connect_failure"
        exchange = recipe.settled(answer)
        assert (exchange.outcome, exchange.attempts) == ("upstream_connect_fail", 3)
        assert servers.name(exchange.upstream) == 8004


def test_as_it_is(tmp_path: Path) -> None:
    """With its demo backends: the primary servers answer alone."""
    with Recipe("fallback", tmp_path) as recipe:
        assert len(recipe.spread(60)) == 2
        assert recipe.stop() == 0
        assert recipe.findings() == []
