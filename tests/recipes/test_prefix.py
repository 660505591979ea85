"""envoy/examples/prefix: the path's first part chooses the server, and is taken off before it gets there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.exchanges import present
from support.recipes import CHAT, Recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """The recipe as it is, with its demo backends."""
    with Recipe("prefix", tmp_path_factory.mktemp("prefix")) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


@pytest.mark.parametrize(("prefix", "cluster"), [("/gpt-oss-120b", "llm"), ("/qwen-30b", "qwen-30b")])
def test_the_prefix_chooses_the_server(recipe: Recipe, prefix: str, cluster: str) -> None:
    """The demo backend knows only /v1/chat/completions. The record has the client's path, and reads its API."""
    answer = recipe.client().ask(path=f"{prefix}/v1/chat/completions?a=1", body=CHAT)
    assert answer.status == 200
    assert answer.json()["object"] == "chat.completion"
    exchange = recipe.settled(answer)
    assert exchange.path == f"{prefix}/v1/chat/completions?a=1"
    assert (exchange.cluster, exchange.route, exchange.outcome) == (cluster, prefix[1:], "ok")
    assert (present(exchange.llm).api, present(exchange.llm).model) == ("chat.completions", "demo")


def test_the_list_of_models_is_fixed(recipe: Recipe) -> None:
    """Envoy answers it; each model has its own list, from its server."""
    answer = recipe.client().ask("GET", "/v1/models")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert [model["id"] for model in answer.json()["data"]] == ["gpt-oss-120b", "qwen-30b"]
    assert recipe.settled(answer).outcome == "local_reply"
    assert recipe.client().ask("GET", "/qwen-30b/v1/models").upstream is not None


def test_health_is_answered_here(recipe: Recipe) -> None:
    """No server is asked."""
    answer = recipe.client().ask("GET", "/health")
    assert (answer.status, answer.body, answer.upstream) == (200, b"healthy", None)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/gpt-oss-120b", "/", "/qwen-30bx/v1/models"])
def test_anything_else_is_a_404(recipe: Recipe, path: str) -> None:
    """With a word on what to do."""
    answer = recipe.client().ask(path=path, body=CHAT)
    assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/json"
    assert recipe.settled(answer).outcome == "local_reply"
