"""docs/routing.md: the YAML of each directive that has no recipe of its own, taken from the page, does what it says."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.exchanges import headers_of, present
from support.raw import Connection, Head, RawBackend
from support.recipes import CHAT, Answer, Client
from support.stack import RunningStack, eventually

PAGE = Path(__file__).resolve().parents[2] / "docs" / "routing.md"


def piece(directive: str) -> str:
    """The YAML under a heading of the page."""
    section = PAGE.read_text().split(f"\n## {directive}\n")[1].split("\n## ")[0]
    found = re.search(r"(?ms)^```yaml\n(.*?)^```$", section)
    assert found is not None
    return found[1]


class Backend(RawBackend):
    """Says what it was asked: path and headers."""

    def __init__(self) -> None:
        super().__init__()
        self.otherwise = self._echo
        self.heads: list[Head] = []

    def _echo(self, connection: Connection, head: Head) -> None:
        connection.finish(head)
        self.heads.append(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


class Gateway(RunningStack):
    """The stack on an overlay, before a backend that says what it was asked."""

    def __init__(self, directory: Path, overlay: str, **settings: object) -> None:
        self.backend = Backend()
        self.envoy_dir = directory / "envoy"
        self.envoy_dir.mkdir()
        (self.envoy_dir / "overlay.yaml").write_text(overlay)
        super().__init__(
            directory,
            "--envoy-dir", self.envoy_dir, "--envoy-concurrency", "1", "--backend", self.backend.url,
            **settings,
        )  # fmt: skip

    def lay(self, overlay: str) -> None:
        """Edit the overlay while it runs, and wait until it is live."""
        before = self.stderr().count("live: ")
        new = self.envoy_dir / ".new"
        new.write_text(overlay)
        new.rename(self.envoy_dir / "overlay.yaml")
        eventually(lambda: self.stderr().count("live: ") > before, f"the overlay: {self.stderr()[-500:]}")

    def ask(self, method: str = "GET", path: str = "/v1/models", body: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own."""
        client = Client(self.port)
        try:
            return client.ask(method, path, body, **headers)
        finally:
            client.close()

    def asked(self) -> Head:
        """The last request that came to the backend."""
        return self.backend.heads[-1]

    def stop(self, *arguments: Any) -> int:
        """The backend ends with it."""
        code = super().stop(*arguments)
        self.backend.stop()
        return code


# What is live after a second ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose overlay each test lays anew."""
    with Gateway(tmp_path_factory.mktemp("routes"), "{}") as gateway:
        yield gateway
        assert gateway.stop() == 0
        assert gateway.findings() == []


def test_location(routes: Gateway) -> None:
    """Whole paths, prefixes by parts, and expressions for the whole path, before what is left."""
    routes.lay(piece("`location`"))
    statuses = {
        path: routes.ask(path=path).status
        for path in ("/v1/models", "/v1/models?a=1", "/v1/audio/speech", "/v1/images/", "/internal", "/internal/a")
    }
    assert statuses == {
        "/v1/models": 200, "/v1/models?a=1": 200, "/v1/audio/speech": 404, "/v1/images/": 404,
        "/internal": 404, "/internal/a": 404,
    }  # fmt: skip
    for path in ("/internals", "/v1/audio", "/a/v1/audio/b"):
        answer = routes.ask(path=path)
        assert answer.status == 200, path
        assert routes.told(answer.headers["x-audit-id"]).route == "default"


def test_proxy_pass_with_a_path_and_rewrite(routes: Gateway) -> None:
    """The backend gets the new path, with the query; the record has the client's, and its API."""
    routes.lay(piece("`proxy_pass` with a path, `rewrite`"))
    for path, rewritten in (
        ("/gpt-oss-120b/v1/chat/completions?a=1", "/v1/chat/completions?a=1"),
        ("/openai/deployments/gpt-4o/chat/completions?api-version=1", "/v1/chat/completions?api-version=1"),
        ("/v1/chat/completions", "/v1/chat/completions"),
    ):
        answer = routes.ask("POST", path, CHAT)
        assert (answer.status, routes.asked().path) == (200, rewritten)
        exchange = routes.told(answer.headers["x-audit-id"])
        assert (exchange.path, present(exchange.llm).api) == (path, "chat.completions")


def test_server_name(routes: Gateway) -> None:
    """With or without a port, and what is below it; any other name has the routes of all."""
    routes.lay(piece("`server_name`"))
    for host, route in (
        ("batch.example.com", "batch"),
        ("batch.example.com:8000", "batch"),
        ("a.batch.example.com", "batch"),
        ("example.com", "default"),
    ):
        answer = routes.ask(host=host)
        assert routes.told(answer.headers["x-audit-id"]).route == route, host


def test_return(routes: Gateway) -> None:
    """A redirect, a refusal and a text, all of them Envoy's own and all on record."""
    routes.lay(piece("`return`"))
    docs, metrics, ping = (routes.ask(path=path) for path in ("/docs", "/metrics/a", "/ping"))
    assert (docs.status, docs.headers["location"]) == (302, "https://docs.example.com/")
    assert (metrics.status, metrics.json()["error"]["code"]) == (403, "forbidden")
    assert metrics.headers["content-type"] == "application/json"
    assert (ping.status, ping.body) == (200, b"pong")
    outcomes = [routes.told(answer.headers["x-audit-id"]).outcome for answer in (docs, metrics, ping)]
    assert outcomes == ["local_reply"] * 3


def test_proxy_set_header(routes: Gateway) -> None:
    """For the backend; the record has what the client sent."""
    routes.lay(piece("`proxy_set_header`"))
    answer = routes.ask(cookie="a=b", x_team="mine")
    head = routes.asked()
    assert [head.get(name) for name in ("host", "x-team", "cookie")] == ["api.internal", "research", None]
    sent = headers_of(routes.told(answer.headers["x-audit-id"]).request)
    assert sent["x-team"] == "mine"
    assert "cookie" in sent


def test_keepalive(routes: Gateway) -> None:
    """Requests share a connection to the backend, up to their number; here two."""
    overlay = piece("`keepalive`")
    assert "max_requests_per_connection: 1000" in overlay
    routes.lay(overlay.replace("max_requests_per_connection: 1000", "max_requests_per_connection: 2"))
    created = "cluster.llm.upstream_cx_max_requests"
    before = routes.envoy_stat(created)
    for _ in range(4):
        assert routes.ask().status == 200
    eventually(lambda: routes.envoy_stat(created) - before == 2, "two connections that were used up")


def test_limit_req(routes: Gateway) -> None:
    """What the bucket holds passes at once, the rest is refused at once, in OpenAI's shape."""
    overlay = piece("`limit_req`, `burst`")
    assert "fill_interval: 1s" in overlay
    routes.lay(overlay.replace("fill_interval: 1s", "fill_interval: 600s"))
    answers = [routes.ask() for _ in range(23)]
    assert Counter(answer.status for answer in answers) == {200: 20, 429: 3}
    assert (answers[-1].json()["error"]["code"], answers[-1].headers["retry-after"]) == ("rate_limit_exceeded", "1")


# What is live after a start ----------------------------------------------------------------------------------


def merged(base: Any, other: Any) -> Any:
    """Two overlays as one: mappings by member, lists of named things by name."""
    if isinstance(base, dict) and isinstance(other, dict):
        return {**base, **{key: merged(base[key], value) if key in base else value for key, value in other.items()}}
    if isinstance(base, list) and isinstance(other, list) and all("name" in item for item in [*base, *other]):
        things = {item["name"]: item for item in base}
        for item in other:
            things[item["name"]] = merged(things[item["name"]], item) if item["name"] in things else item
        return list(things.values())
    return other


def of_the_bootstrap() -> dict[str, Any]:
    """The pieces that change envoy.yaml, as one overlay. `cors` comes first, as the page says."""
    overlay: Any = {}
    for directive, edit in (
        ("`add_header Access-Control-*`", ("", "")),
        ("`allow`, `deny`", ("", "")),
        ("API keys, `return 401`", ("", "")),
        ("`set_real_ip_from`, `real_ip_header`", ("address_prefix: 10.0.0.0", "address_prefix: 127.0.0.0")),
        ("`limit_conn`", ("max_connections: 1000", "max_connections: 5")),
        ("`access_log`", ("", "")),
    ):
        text = piece(directive)
        assert edit[0] in text
        overlay = merged(overlay, yaml.safe_load(text.replace(*edit)))
    return dict(overlay)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with all pieces that need a restart."""
    with Gateway(tmp_path_factory.mktemp("listener"), yaml.safe_dump(of_the_bootstrap(), sort_keys=False)) as gateway:
        yield gateway
        assert gateway.stop() == 0
        assert gateway.findings() == []


def test_keys(listener: Gateway) -> None:
    """A key is let in by its name and goes no further; who has none gets a 401."""
    answer = listener.ask("POST", "/v1/chat/completions", CHAT, authorization="Bearer sk-alice")
    assert answer.status == 200
    assert (listener.asked().get("x-client"), listener.asked().get("authorization")) == ("alice", None)
    refused = listener.ask("POST", "/v1/chat/completions", CHAT, authorization="Bearer sk-eve")
    assert (refused.status, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert listener.told(refused.headers["x-audit-id"]).outcome == "local_reply"


def test_the_client_behind_proxies(listener: Gateway) -> None:
    """Is the last one that is no trusted proxy: what a client writes before that does not count."""
    answer = listener.ask(x_forwarded_for="10.9.9.9, 203.0.113.9, 127.0.0.7", authorization="Bearer sk-bob")
    exchange = listener.told(answer.headers["x-audit-id"])
    assert str(exchange.client).partition(":")[0] == "203.0.113.9"


def test_allow_and_deny(listener: Gateway) -> None:
    """By the client's address behind the proxies."""
    for client, status in (("203.0.113.9", 403), ("10.1.2.3", 200)):
        answer = listener.ask(path="/metrics", x_forwarded_for=client, authorization="Bearer sk-bob")
        assert answer.status == status, client
    assert listener.ask(x_forwarded_for="203.0.113.9", authorization="Bearer sk-bob").status == 200


def test_cors(listener: Gateway) -> None:
    """The preflight of the allowed origin is answered without a key."""
    answer = listener.ask("OPTIONS", origin="https://chat.example.com", access_control_request_method="POST")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://chat.example.com")
    assert "access-control-allow-origin" not in listener.ask("OPTIONS", origin="https://evil.example.com").headers


def test_access_log(listener: Gateway) -> None:
    """A line a request, without the query, beside the log that the recorder reads."""
    client = "203.0.113.77"
    answer = listener.ask(path="/v1/models?key=secret-1", x_forwarded_for=client, authorization="Bearer sk-bob")
    assert listener.told(answer.headers["x-audit-id"]).access_log == "received"
    path = listener.directory / "access.log"
    # Envoy writes its buffer out every ten seconds, and when it is told to open the file anew.
    urllib.request.urlopen(f"{listener.envoy_admin}/reopen_logs", data=b"").close()
    line = eventually(
        lambda: next((line for line in path.read_text().splitlines() if line.startswith(client)), None), "a line"
    )
    assert re.search(r'^\S+ \[[^]]+\] "GET /v1/models HTTP/1\.1" 200 2 \d+ 127\.0\.0\.1:\d+$', line)
    assert "secret-1" not in path.read_text()


def test_limit_conn(listener: Gateway) -> None:
    """One more than the limit is closed at once."""
    active = "connection_limit.ingress.active_connections"
    eventually(lambda: listener.envoy_stat(active) == 0, "no connection")
    connections = [Connection.to(listener.port) for _ in range(5)]
    eventually(lambda: listener.envoy_stat(active) == 5, "five")
    with Connection.to(listener.port) as more:
        assert more.read_to_end() == b""
    for connection in connections:
        connection.close()
    eventually(lambda: listener.envoy_stat(active) == 0, "no connection")


def test_proxy_request_buffering_off(tmp_path: Path) -> None:
    """With hold_request_bytes at 0 the backend gets the beginning of a short request before its end is there."""
    came: list[bytes] = []
    with Gateway(tmp_path, piece("`location`"), hold_request_bytes=0) as gateway:

        def script(connection: Connection, head: Head) -> None:
            came.append(connection.read_exactly(5))
            connection.read_exactly(5)
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        path = gateway.backend.on(script)
        with Connection.to(gateway.port) as client:
            client.send(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nfirst".encode())
            eventually(lambda: came == [b"first"], "the first bytes")
            client.send(b"laste")
            assert client.read_message().head.status == 200
        assert gateway.stop() == 0
