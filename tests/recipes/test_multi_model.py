"""envoy/examples/multi-model: HTTPS, names, models by what the body says, and limits."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator

import httpx2
import pytest
from support.certificates import Authority
from support.exchanges import present
from support.raw import Connection
from support.recipes import CHAT, Recipe
from support.stack import eventually

BODY_LIMIT = 33554432
CONNECTIONS = 8


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """The recipe with its demo backends, a certificate, and a lower limit of connections."""
    directory = tmp_path_factory.mktemp("multi-model")
    (directory / "certs").mkdir()
    Authority(directory / "certs", "ca").sign("server", days=30)

    def edit(name: str, text: str) -> str:
        assert name != "overlay.yaml" or "max_connections: 1000\n" in text
        return text.replace("max_connections: 1000\n", f"max_connections: {CONNECTIONS}\n")

    with Recipe("multi-model", directory, edit=edit) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def client_of(recipe: Recipe) -> httpx2.Client:
    """A client that trusts the recipe's authority only."""
    context = ssl.create_default_context(cafile=recipe.directory / "certs" / "ca.pem")
    return httpx2.Client(base_url=f"https://localhost:{recipe.port}", verify=context, http2=True, timeout=150)


EMBEDDING = {"model": "bge-m3", "input": "a"}


@pytest.mark.parametrize(
    ("host", "path", "body", "cluster"),
    [
        ("llm.example.com", "/v1/chat/completions", CHAT, "llm"),
        ("llm.example.com:8443", "/v1/chat/completions", CHAT, "llm"),
        ("llm.example.com", "/v1/embeddings", EMBEDDING, "embeddings"),
        ("llm.example.com", "/v1/embeddings", {"input": "a", "model": "bge-m3"}, "embeddings"),
        ("embed.example.com", "/v1/embeddings", {"model": "any", "input": "a"}, "embeddings"),
    ],
)
def test_name_and_model_choose_the_server(
    recipe: Recipe, host: str, path: str, body: dict[str, object], cluster: str
) -> None:
    """Whatever the order of the body's members, and the port after the name."""
    with client_of(recipe) as client:
        answer = client.post(path, json=body, headers={"host": host})
    assert answer.status_code == 200
    exchange = recipe.settled(answer.headers["x-audit-id"])
    assert (exchange.cluster, exchange.outcome, present(exchange.llm).model) == (cluster, "ok", body["model"])


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [("embed.example.com", "/v1/chat/completions", 404), ("other.example.com", "/v1/chat/completions", 421)],
)
def test_a_name_has_what_is_its_own(recipe: Recipe, host: str, path: str, status: int) -> None:
    """And a name that is none of ours has nothing; both are recorded."""
    with client_of(recipe) as client:
        answer = client.post(path, json=CHAT, headers={"host": host})
    assert answer.status_code == status
    eventually(lambda: any(each.status == status and each.authority == host for each in recipe.exchanges()), "a record")


def test_a_body_over_the_limit(recipe: Recipe) -> None:
    """Is a 413 by its content-length, before it comes, in OpenAI's shape."""
    context = ssl.create_default_context(cafile=recipe.directory / "certs" / "ca.pem")
    plain = socket.create_connection(("127.0.0.1", recipe.port), timeout=150)
    with Connection(context.wrap_socket(plain, server_hostname="localhost")) as client:
        client.send(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (BODY_LIMIT + 1)
        )
        answer = client.read_message()
    assert (answer.head.status, json.loads(answer.body)["error"]["code"]) == (413, "request_too_large")


def test_connections_have_a_limit(recipe: Recipe) -> None:
    """One more is closed; when another one has gone there is room again."""
    with contextlib.ExitStack() as stack:
        eventually(lambda: recipe.envoy_stat("connection_limit.ingress.active_connections") == 0, "no connection")
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", recipe.port)))
        active = "connection_limit.ingress.active_connections"
        eventually(lambda: recipe.envoy_stat(active) == CONNECTIONS, "all of them")
        with socket.create_connection(("127.0.0.1", recipe.port)) as more:
            more.settimeout(150)
            assert more.recv(1) == b""

    def room() -> bool:
        with contextlib.suppress(httpx2.HTTPError), client_of(recipe) as client:
            return client.get("/v1/models", headers={"host": "llm.example.com"}).status_code == 200
        return False

    eventually(room, "room for a connection")
