"""envoy/examples/cookie-affinity: a client that comes back stays on its server."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from http.cookies import SimpleCookie

import pytest
from support.raw import RawBackend
from support.recipes import Answer, Recipe
from support.servers import Servers
from support.stack import eventually

NAME = "extproc-server"


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Three servers, and a fourth one to be added."""
    with Servers(4) as running:
        yield running


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Recipe]:
    """The recipe in front of three of them, with quick health checks."""
    ports = {port: real for port, real in servers.ports.items() if port < 8004}

    def quick(name: str, text: str) -> str:
        return re.sub(r"interval: [15]s", "interval: 0.2s", text)

    with Recipe("cookie-affinity", tmp_path_factory.mktemp("cookies"), backends=ports, edit=quick) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def come(recipe: Recipe, cookie: str | None = None) -> Answer:
    """One request on a new connection, of a client that has the cookie or none."""
    with recipe.client() as client:
        return client.ask("GET", "/v1/models", **({} if cookie is None else {"cookie": f"a=b; {NAME}={cookie}"}))


def cookie(answer: Answer) -> str:
    """The cookie that an answer sets."""
    return SimpleCookie(answer.headers["set-cookie"])[NAME].value


def test_a_client_stays(recipe: Recipe, servers: Servers) -> None:
    """Over connections, also when a server is added; new clients go everywhere."""
    clients = {cookie(answer): answer.upstream for answer in (come(recipe) for _ in range(60))}
    assert set(clients.values()) == {servers.address(index) for index in range(3)}
    for _ in range(3):
        assert {each: come(recipe, each).upstream for each in clients} == clients

    port = servers.all[3].port
    recipe.edit(
        "overlay.yaml", lambda t: t + re.sub(r"port_value: \d+", f"port_value: {port}", t.splitlines()[-1]) + "\n"
    )
    assert {each: come(recipe, each).upstream for each in clients} == clients
    assert eventually(lambda: come(recipe).upstream == servers.address(3), "a new client of the fourth")


def test_the_cookie(recipe: Recipe) -> None:
    """A session cookie, set once; the record has it only as a mark."""
    first = come(recipe)
    text = first.headers["set-cookie"]
    assert re.fullmatch(rf'{NAME}="[A-Za-z0-9+/=]+"; Path=/; SameSite=Lax; HttpOnly', text), text
    again = come(recipe, cookie(first))
    assert "set-cookie" not in again.headers
    assert again.upstream == first.upstream
    exchange = recipe.settled(first)
    assert exchange.upstream == first.upstream
    assert cookie(first) not in str(exchange)
    assert cookie(first) not in str(recipe.settled(again))


def forged(address: str) -> str:
    """A cookie as Envoy makes it: a protobuf message with the address as its first field."""
    return base64.b64encode(b"\n" + bytes([len(address)]) + address.encode()).decode()


def test_a_cookie_leads_nowhere_else(recipe: Recipe, servers: Servers) -> None:
    """It may name any server of the cluster; what names another one, or is no cookie of Envoy's, is as none."""
    assert come(recipe, forged(servers.address(1))).upstream == servers.address(1)
    with RawBackend() as outsider:
        address = f"127.0.0.1:{outsider.port}"
        for each in (forged(address), "", "%%%", "a" * 2000):
            answer = come(recipe, each)
            assert answer.status == 200
            assert answer.upstream != address
            assert cookie(answer)


def test_a_client_whose_server_is_gone(recipe: Recipe, servers: Servers) -> None:
    """It goes to another one, and from then on to that. (The last test: a server is missing from here on.)"""
    first = come(recipe)
    next(each for each in servers.all if first.upstream == f"127.0.0.1:{each.port}").stop()
    moved = eventually(
        lambda: answer if (answer := come(recipe, cookie(first))).status == 200 else None, "a new server"
    )
    assert moved.upstream != first.upstream
    assert come(recipe, cookie(moved)).upstream == moved.upstream
