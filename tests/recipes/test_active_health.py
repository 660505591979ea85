"""envoy/examples/active-health: three failed checks put a server out, until one succeeds."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.raw import Connection, Head
from support.recipes import Answer, Recipe
from support.servers import Servers, plain
from support.stack import eventually


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Recipe]:
    """The recipe in front of them, with quick checks. Each test leaves all servers healthy."""
    with Recipe("active-health", tmp_path_factory.mktemp("active"), backends=servers.ports, edit=quick) as running:
        yield running
        over(running)


def quick(name: str, text: str) -> str:
    """Ten checks a second, and all the time for an answer to one."""
    return re.sub(r"(interval): [15]s", r"\1: 0.1s", text).replace("timeout: 2s", "timeout: 50s")


def panic(threshold: int) -> Callable[[str, str], str]:
    """Another panic threshold, besides."""
    return lambda name, text: quick(name, text).replace(
        "panic_threshold: {value: 0}", f"panic_threshold: {{value: {threshold}}}"
    )


class Health:
    """What a server answers to checks; after `fails`, one waits for `go_on`."""

    def __init__(self) -> None:
        self.status = 200
        self.waits_after: int | None = None
        self.failed = 0
        self.waits = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, connection: Connection, head: Head) -> None:
        if self.status != 200:
            if self.failed == self.waits_after:
                self.waits.set()
                self.go_on.wait(150)
            self.failed += 1
        connection.send(b"HTTP/1.1 %d Status\r\ncontent-length: 0\r\n\r\n" % self.status)


@pytest.fixture
def health(servers: Servers) -> Iterator[list[Health]]:
    """The checks' answers of each server."""
    scripts = [Health() for _ in servers.all]
    for server, script in zip(servers.all, scripts, strict=True):
        server.health = script
    yield scripts
    for server, script in zip(servers.all, scripts, strict=True):
        script.go_on.set()
        server.health = Health()


def ask(recipe: Recipe, times: int = 40) -> list[Answer]:
    """Requests one after another."""
    client = recipe.client()
    return [plain(client) for _ in range(times)]


def upstreams(recipe: Recipe) -> set[str | None]:
    """Which servers get requests."""
    return {answer.upstream for answer in ask(recipe)}


def until_healthy(recipe: Recipe, number: int) -> None:
    """Wait until Envoy sees so many servers as healthy."""
    eventually(lambda: recipe.envoy_stat("cluster.llm.membership_healthy") == number, f"{number} healthy servers")


def over(recipe: Recipe) -> None:
    """The end of every test."""
    assert recipe.stop() == 0
    assert recipe.findings() == []


def test_three_failures_put_a_server_out(recipe: Recipe, servers: Servers, health: list[Health]) -> None:
    """After two it still gets requests, after the third none; a check that succeeds brings it back."""
    until_healthy(recipe, 3)
    everybody = {servers.address(index) for index in range(3)}
    assert upstreams(recipe) == everybody
    health[0].waits_after = 2
    health[0].status = 503
    assert health[0].waits.wait(150)
    assert upstreams(recipe) == everybody
    health[0].go_on.set()
    until_healthy(recipe, 2)
    assert upstreams(recipe) == everybody - {servers.address(0)}
    health[0].status = 200
    until_healthy(recipe, 3)
    assert upstreams(recipe) == everybody


def test_a_dead_server_is_found_without_traffic(recipe: Recipe, servers: Servers) -> None:
    """And no request is lost on it; it comes back when it is there again."""
    until_healthy(recipe, 3)
    servers.all[0].stop()
    until_healthy(recipe, 2)
    assert {(answer.status, answer.upstream == servers.address(0)) for answer in ask(recipe)} == {(200, False)}
    servers.replace(0)
    until_healthy(recipe, 3)
    assert servers.address(0) in upstreams(recipe)


def test_with_none_left_envoy_answers(recipe: Recipe, servers: Servers, health: list[Health]) -> None:
    """503 at once, in OpenAI's words, though the servers would answer; the record says that none was asked."""
    until_healthy(recipe, 3)
    for each in health:
        each.status = 500
    until_healthy(recipe, 0)
    [answer] = ask(recipe, 1)
    assert answer.status == 503
    assert answer.json()["error"]["code"] == "no_healthy_upstream"
    assert answer.headers["retry-after"] == "1"
    exchange = recipe.settled(answer)
    assert (exchange.outcome, exchange.response_flags) == ("local_reply", ["UH"])
    assert exchange.upstream is None
    health[1].status = 200
    until_healthy(recipe, 1)
    assert upstreams(recipe) == {servers.address(1)}


@pytest.mark.parametrize(("threshold", "asked"), [(33, 1), (50, 3)])
def test_the_panic_threshold(
    tmp_path: Path, servers: Servers, health: list[Health], threshold: int, asked: int
) -> None:
    """With one of three healthy: below the threshold all get requests, the dead ones too; otherwise only that one."""
    with Recipe("active-health", tmp_path, backends=servers.ports, edit=panic(threshold)) as recipe:
        health[0].status = health[1].status = 503
        until_healthy(recipe, 1)
        assert len(upstreams(recipe)) == asked
        assert (recipe.envoy_stat("cluster.llm.lb_healthy_panic") > 0) == (asked == 3)
        over(recipe)
