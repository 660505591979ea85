"""envoy/examples/gateway-keys: who has no key gets a 401 that is recorded, and nobody else is in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from support.exchanges import headers_of, present
from support.raw import Connection, Head, RawBackend
from support.recipes import Recipe

BURST = 20
"""Of the recipe: what a key may ask at once."""


class Heads:
    """A server that answers everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.backend = RawBackend()
        self.backend.otherwise = self._answer
        self.seen: list[Head] = []

    def _answer(self, connection: Connection, head: Head) -> None:
        connection.finish(head)
        self.seen.append(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


@pytest.fixture(scope="module")
def server() -> Iterator[Heads]:
    """The server behind `recipe`."""
    server = Heads()
    yield server
    server.backend.stop()
    assert server.backend.errors == []


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, server: Heads) -> Iterator[Recipe]:
    """The recipe as it is."""
    ports = {8001: server.backend.port, 8002: server.backend.port}
    with Recipe("gateway-keys", tmp_path_factory.mktemp("gateway-keys"), backends=ports) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"authorization": "Bearer sk-alice"}, "alice"),
        ({"authorization": "Bearer sk-bob"}, "bob"),
        ({"x_api_key": "sk-bob"}, "bob"),
        ({"authorization": "Bearer sk-alice", "x_client": "root"}, "alice"),
    ],
)
def test_a_key_is_let_in_by_its_name(recipe: Recipe, server: Heads, headers: dict[str, str], client: str) -> None:
    """The server gets the name and no key; what a client calls itself does not count."""
    answer = recipe.client().chat(**headers)
    assert answer.status == 200
    assert server.seen[-1].get("x-client") == client
    assert [server.seen[-1].get(name) for name in ("authorization", "x-api-key", "x-client-key")] == [None] * 3
    assert recipe.settled(answer).outcome == "ok"


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer sk-eve"}, {"authorization": "sk-"}, {"authorization": "Basic YTpi"}]
)
def test_anybody_else_gets_a_401(recipe: Recipe, server: Heads, headers: dict[str, str]) -> None:
    """In OpenAI's shape; it is on record with what was asked, and the server never hears of it."""
    before = len(server.seen)
    answer = recipe.client().chat(**headers)
    assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    exchange = recipe.settled(answer)
    assert (exchange.outcome, exchange.status, exchange.upstream) == ("local_reply", 401, None)
    assert present(present(exchange.request).bytes) > 0
    assert len(server.seen) == before


def test_the_record_has_the_mark_of_a_key_and_not_the_key(recipe: Recipe) -> None:
    """Of one that was refused as well: the same key has the same mark."""
    first, second = (recipe.settled(recipe.client().chat(authorization="Bearer sk-stolen")) for _ in range(2))
    marks = {headers_of(exchange.request)["authorization"] for exchange in (first, second)}
    assert len(marks) == 1
    assert marks.pop().startswith("redacted:")


def test_a_preflight_needs_no_key(recipe: Recipe) -> None:
    """It is answered by Envoy, for the one origin that is allowed."""
    asks = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    answer = recipe.client().ask("OPTIONS", origin="https://chat.example.com", **asks)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
    assert "authorization" in answer.headers["access-control-allow-headers"]
    other = recipe.client().ask("OPTIONS", origin="https://evil.example.com", **asks)
    assert other.status == 401
    assert "access-control-allow-origin" not in other.headers


def test_a_browser_can_read_its_answers(recipe: Recipe) -> None:
    """The answer to a request, and a refusal too."""
    origin = "https://chat.example.com"
    for headers, status in (({"authorization": "Bearer sk-alice"}, 200), ({}, 401)):
        answer = recipe.client().chat(origin=origin, **headers)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, origin)


def test_metrics_are_for_those_inside(recipe: Recipe) -> None:
    """127.0.0.1 is; 127.0.0.2 is not, whatever it says of itself."""
    assert recipe.client().ask("GET", "/metrics").status == 200
    answer = recipe.client("127.0.0.2").ask("GET", "/metrics", x_forwarded_for="10.0.0.1")
    assert (answer.status, answer.json()["error"]["code"]) == (403, "forbidden")
    assert recipe.settled(answer).outcome == "local_reply"
    assert recipe.client("127.0.0.2").chat(authorization="Bearer sk-alice").status == 200


def test_health_is_open(recipe: Recipe) -> None:
    """For a load balancer in front."""
    assert recipe.client("127.0.0.2").ask("GET", "/health").status == 200


def test_each_key_has_a_bucket(recipe: Recipe) -> None:
    """One that asks too much is refused, and the other one is not."""
    client = recipe.client()
    statuses = Counter(client.chat(authorization="Bearer sk-bob").status for _ in range(4 * BURST))
    assert statuses[200] >= BURST - 4
    assert statuses[429] > 0
    assert recipe.client().chat(authorization="Bearer sk-alice").status == 200
