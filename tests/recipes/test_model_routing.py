"""envoy/examples/model-routing: the model in the body chooses the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.exchanges import present
from support.recipes import Client, Recipe

from extproc.core.records import Routing
from extproc.history.join import Exchange


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """The recipe with its three demo backends."""
    with Recipe("model-routing", tmp_path_factory.mktemp("models")) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def chat(model: Any, content: str = "Hello") -> dict[str, Any]:
    """A request as the official clients send it: `model` comes last."""
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1, "model": model}


def record(recipe: Recipe, headers: dict[str, str]) -> Exchange:
    """The exchange of an answer."""
    return recipe.exchange(headers["x-audit-id"])


@pytest.mark.parametrize(("model", "cluster"), [("gpt-oss-120b", "large"), ("gpt-4o", "large")])
def test_a_model_goes_to_its_cluster(recipe: Recipe, model: str, cluster: str) -> None:
    """By its name or by an alias; the record has both."""
    answer = recipe.client().ask(body=chat(model))
    assert answer.status == 200
    exchange = record(recipe, answer.headers)
    assert (exchange.cluster, exchange.route) == (cluster, model)
    assert exchange.routing == Routing(by="body", set={"x-model": model})
    assert exchange.held


def test_a_canary_gets_its_share(recipe: Recipe) -> None:
    """One request in ten, within five standard deviations of 600 draws."""
    spread = recipe.spread(600, lambda client, _: client.ask(body=chat("gpt-oss-20b")))
    assert len(spread) == 2
    assert 24 <= min(spread.values()) <= 96


def test_an_unknown_model_is_refused_in_openais_words(recipe: Recipe) -> None:
    """404, as OpenAI answers, and an exchange of its own."""
    answer = recipe.client().ask(body=chat("gpt-5-ultra"))
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["code"] == "model_not_found"
    assert record(recipe, answer.headers).outcome == "local_reply"


def test_the_list_of_models_is_still_there(recipe: Recipe) -> None:
    """A request that names no model goes to the last route."""
    answer = recipe.client().ask("GET", "/v1/models")
    assert answer.status == 200
    assert answer.json()["object"] == "list"


def test_a_long_prompt_is_routed_by_its_end(recipe: Recipe) -> None:
    """Several MiB before `model`: more than Envoy buffers where nobody raised the limit."""
    answer = recipe.client().ask(body=chat("gpt-oss-20b", "a " * 2_000_000))
    assert answer.status == 200
    exchange = record(recipe, answer.headers)
    assert present(exchange.cluster).startswith("small")
    assert present(present(exchange.request).bytes) > 4_000_000


def chunked(client: Client, model: str | None) -> Any:
    """A request whose length is not announced."""
    headers = {} if model is None else {"x_model": model}
    pieces = iter([b'{"messages": [{"role": "user", "content": "a"}], "model": ', b'"gpt-oss-20b"}'])
    return client.ask(body=pieces, content_type="application/json", **headers)


@pytest.mark.parametrize(("header", "cluster"), [("gpt-oss-20b", "small"), (None, "large")])
def test_a_chunked_request_goes_by_its_header(recipe: Recipe, header: str | None, cluster: str) -> None:
    """Else to the last route; the record says why the body had no say."""
    answer = chunked(recipe.client(), header)
    assert answer.status == 200
    exchange = record(recipe, answer.headers)
    assert present(exchange.cluster).startswith(cluster)
    assert exchange.routing == Routing(by="headers", why="no content-length")


def test_the_body_counts_more_than_the_header(recipe: Recipe) -> None:
    """Where both name a model, the one that the server will read."""
    answer = recipe.client().ask(body=chat("gpt-oss-120b"), x_model="gpt-oss-20b")
    assert record(recipe, answer.headers).cluster == "large"


@pytest.mark.parametrize(
    ("body", "headers", "why"),
    [
        (b"no JSON", {}, "no JSON object"),
        (b"[]", {}, "no JSON object"),
        (b'{"messages": []}', {}, "no model"),
        (b'{"model": 5}', {}, "a model that no header can carry"),
        (b'{"model": "a\\nx-evil: 1"}', {}, "a model that no header can carry"),
        (b'{"model": "gpt-oss-20b"}', {"content_encoding": "gzip"}, "content-encoding gzip"),
    ],
)
def test_a_body_that_names_no_model(recipe: Recipe, body: bytes, headers: dict[str, str], why: str) -> None:
    """It goes to the last route, and the record says why."""
    answer = recipe.client().ask(body=body, **headers)
    exchange = record(recipe, answer.headers)
    assert exchange.routing == Routing(by="headers", why=why)
    assert exchange.cluster == "large"


def test_odd_json_is_read_as_model_servers_read_it(recipe: Recipe) -> None:
    """NaN, and a name that stands twice: the last one counts."""
    answer = recipe.client().ask(body=b'{"model": "x", "temperature": NaN, "model": "gpt-oss-120b"}')
    exchange = record(recipe, answer.headers)
    assert present(exchange.routing).set == {"x-model": "gpt-oss-120b"}
